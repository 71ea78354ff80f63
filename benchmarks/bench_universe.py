"""Three independent models in one universe: losses, not timings.

They are aligned to each other. The excess of their plain average is compared with the highest barrier of their pairs,
each aligned as a pair, on text that none of them was trained on.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from measurement import record

from isthmus.merge.pipeline import merge_models
from isthmus.merge.plans import MergePlan, SpectrumPlan

CHECKPOINTS = Path(__file__).parents[1] / "lab" / "checkpoints"
TEXTS = ["stdlib:docs:heldout", "stdlib:code:heldout"]
THREE = ("adamw-1", "adamw-2", "muon-1")
ALIGNMENTS = ("orthogonal", "combined", "permutation")


def universe(align: str) -> dict[str, object]:
    """The plain average of three, and the pairs' barriers, after one alignment."""
    three = [str(CHECKPOINTS / name) for name in THREE]
    report = merge_models(three, MergePlan(TEXTS, align=align, spectrum=SpectrumPlan(True))).report
    pairs = {}
    for a, b in itertools.combinations(THREE, 2):
        line = merge_models(
            [CHECKPOINTS / a, CHECKPOINTS / b], MergePlan(TEXTS, align=align, spectrum=SpectrumPlan(False))
        )
        pairs[f"{a}, {b}"] = round(line.report["barrier"], 4)
    excess = report["baselines"]["average"]["excess"]
    return {
        "uniform_average_excess": round(excess, 4),
        "naive_average_excess": round(report["baselines"]["naive_average"]["excess"], 4),
        "pairwise_barriers": pairs,
        "ratio_to_worst_pair": round(excess / max(pairs.values()), 3),
        "rounds": report["alignment"]["rounds"],
        "spectrum": report["spectrum"]["verdict"],
    }


def main() -> None:
    """Two at a time, each with one thread."""
    with ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        alignments = dict(zip(ALIGNMENTS, pool.map(universe, ALIGNMENTS), strict=True))
    record("universe", {"what": __doc__.split("\n")[0], "models": THREE, "alignments": alignments})


if __name__ == "__main__":
    main()
