"""The search for t against an 11-point grid on all blocks (the baseline): forward passes, and the t that is chosen."""

from __future__ import annotations

from pathlib import Path

from measurement import record

from isthmus.align.pipeline import align_models
from isthmus.checkpoint.loading import load
from isthmus.eval.barrier import profile
from isthmus.eval.loss import LossMeter
from isthmus.eval.text import Text
from isthmus.merge.path import WeightPath
from isthmus.merge.search import Search, grid, inside

EMBEDDED = Path(__file__).parents[1] / "lab" / "checkpoints"
PAIRS = (
    ("docs", "code", "none"),
    ("adamw-1", "docs", "none"),
    ("adamw-1", "adamw-2", "none"),
    ("adamw-1", "adamw-2", "orthogonal"),
    ("muon-1", "muon-2", "orthogonal"),
    ("adamw-1", "muon-1", "orthogonal"),
    ("muon-2", "adamw-2", "orthogonal"),
)
SEEDS = (0, 1, 2)


def compare(a: str, b: str, method: str, seed: int) -> dict[str, object]:
    aligned = align_models(EMBEDDED / a, EMBEDDED / b, method)  # type: ignore[arg-type]
    corpora, tokenizer = ("stdlib:docs:heldout", "stdlib:code:heldout"), load(EMBEDDED / a).tokenizer()
    text = Text(corpora, tokenizer, context=128, vocabulary=1024, seed=seed).blocks()
    passes = 0

    def count(blocks: int) -> None:
        nonlocal passes
        passes += blocks

    meter = LossMeter(aligned.config, {part.label: part.select for part in text}, on_blocks=count)
    path = WeightPath("linear", dict(aligned.a), dict(aligned.b))
    whole = profile(path, meter, grid())
    everything, passes = passes, 0
    t = Search(path, meter).settle("mean", 0.1)
    best = min((t for t in grid() if inside(t, 0.1)), key=lambda t: whole.at(t).mean)
    return {"grid_t": best, "search_t": t, "share_of_passes": round(passes / everything, 3)}


def main() -> None:
    cases = {
        f"{a}, {b}, {method}, seed {seed}": compare(a, b, method, seed) for a, b, method in PAIRS for seed in SEEDS
    }
    shares = [row["share_of_passes"] for row in cases.values()]
    record(
        "search",
        {
            "what": "the search for t, 64 blocks of each of two texts",
            "baseline": "11 points on all blocks",
            "same_t": f"{sum(row['grid_t'] == row['search_t'] for row in cases.values())} of {len(cases)}",
            "largest_share_of_passes": max(shares),  # type: ignore[type-var]
            "mean_share_of_passes": round(sum(shares) / len(shares), 3),  # type: ignore[arg-type]
            "cases": cases,
        },
    )


if __name__ == "__main__":
    main()
