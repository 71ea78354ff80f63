"""Ensembles of A and B with a point of the path between them: losses, not timings.

For each kind of pair a curve of one bend is trained (300 steps, `isthmus path`), its merge point, kept between 0.3 and
0.7, is taken, and A and B are held against A, B and that point as an ensemble, on the same blocks, of modules on which
neither the models nor the curve were trained.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from measurement import record

from isthmus.eval.loss import ensemble_losses
from isthmus.merge.ensembles import ensemble
from isthmus.merge.pipeline import merge_models
from isthmus.merge.plans import CurvePlan, EnsemblePlan, MergePlan

CHECKPOINTS = Path(__file__).parents[1] / "lab" / "checkpoints"
TRAIN = ["stdlib:docs:train", "stdlib:code:train"]
TEXTS = ["stdlib:docs:heldout", "stdlib:code:heldout"]
PAIRS = {
    "AdamW, AdamW": ("adamw-1", "adamw-2"),
    "Muon, Muon": ("muon-1", "muon-2"),
    "AdamW, Muon": ("adamw-1", "muon-1"),
}
TOKENS = 24_576  # of each text, for differences of hundredths of a nat


def with_path_point(pair: tuple[str, str]) -> dict[str, object]:
    """A and B, the path point, and their ensembles."""
    with tempfile.TemporaryDirectory() as folder:
        return _with_path_point(pair, Path(folder))


def _with_path_point(pair: tuple[str, str], work: Path) -> dict[str, object]:
    models = [CHECKPOINTS / name for name in pair]
    path = merge_models(models, MergePlan(TRAIN, path=CurvePlan("polychain"), align="orthogonal"))
    path.save_path(work / "path", overwrite=True)
    t = path.report["merge_point"]["t"]
    t = min(0.7, max(0.3, t))  # a point near an end says what that end says
    found = ensemble(models, EnsemblePlan(TEXTS, work / "path", [t], align="none", tokens=TOKENS))
    tokens = found.token_losses
    two, three = ensemble_losses(tokens[:2]), ensemble_losses(tokens[:3])
    gain = two - three
    members = {row["name"]: round(row["loss"], 4) for row in found.report["models"] if row["kind"] == "member"}
    return {
        "tokens_of_each_text": TOKENS,
        "t": t,
        "members": members,
        "A and B": round(two.mean, 4),
        "A, B and the point": round(three.mean, 4),
        "gain": round(gain.mean, 4),
        "gain_stderr": round(gain.stderr, 4),
    }


def main() -> None:
    """Two at a time, each with one thread."""
    with ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        found = dict(zip(PAIRS, pool.map(with_path_point, PAIRS.values()), strict=True))
    record("ensembles", {"what": __doc__.split("\n")[0], "pairs": found})


if __name__ == "__main__":
    main()
