"""Three independent models in one universe: losses, not timings.

They are aligned to each other. The excess of their plain average is compared with the highest barrier of their pairs,
each aligned as a pair, on text that none of them was trained on. `learned` together, 1,000 steps of 8 x 128 tokens, is
fitted to the text that they were trained on, and to what they write; its pairs are those of bench_paths.py. So is the
`star`: after `combined` alignment, one centre, trained for 300 steps of 32 x 128 tokens.

    python bench_universe.py [WAY ...]

measures some of them; of the others, what was recorded stays.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

import torch
from measurement import RESULTS, record

from isthmus.merge.pipeline import merge_models
from isthmus.merge.plans import CurvePlan, MergePlan, SpectrumPlan

CHECKPOINTS = Path(__file__).parents[1] / "lab" / "checkpoints"
UNSEEN = ("docs", "code")
TEXTS = ["stdlib:docs:heldout", "stdlib:code:heldout"]
THREE = ("adamw-1", "adamw-2", "muon-1")
WAYS = ("orthogonal", "combined", "permutation", "learned", "star")
FITTED = ["fitted=stdlib:docs:train", "fitted-code=stdlib:code:train"]


def universe(way: str) -> dict[str, object]:
    """The plain average of three, and the pairs' barriers, after one alignment; or the centre of their star."""
    three, align = [str(CHECKPOINTS / name) for name in THREE], "combined" if way == "star" else way
    plan = MergePlan(TEXTS, align=align, spectrum=SpectrumPlan(True))
    if way == "star":
        plan = replace(plan, path=CurvePlan())
    if way in ("learned", "star"):
        plan = replace(plan, data=[*FITTED, *TEXTS], fit_on=["fitted", "fitted-code"], report_on=UNSEEN)
    report = merge_models(three, plan).report
    by_text = {label: round(value, 4) for label, value in report["merge_point"]["excesses"].items()}
    own = {"excess_by_text": by_text, "spectrum": report["spectrum"]["verdict"], "seconds": round(report["seconds"])}
    if way in ("learned", "star"):
        own = {"excess": round(mean(by_text[label] for label in UNSEEN), 4), **own}
        arms = [arm["barrier"] for arm in (report["star"] or {"arms": ()})["arms"]]
        over = {"mean over all texts": report["merge_point"]["excess"], "highest along arms": max(arms)} if arms else {}
        return own | {name: round(value, 4) for name, value in over.items()}
    pairs, excess = {}, report["baselines"]["average"]["excess"]
    for a, b in itertools.combinations(THREE, 2):
        line = merge_models(
            [CHECKPOINTS / a, CHECKPOINTS / b], MergePlan(TEXTS, align=align, spectrum=SpectrumPlan(False))
        )
        pairs[f"{a}, {b}"] = round(line.report["barrier"], 4)
    return {
        "excess": round(excess, 4),
        "naive_average_excess": round(report["baselines"]["naive_average"]["excess"], 4),
        **own,
        "pairwise_barriers": pairs,
        "ratio_to_worst_pair": round(excess / max(pairs.values()), 3),
        "rounds": report["alignment"]["rounds"],
    }


def main(wanted: Sequence[str]) -> None:
    """Two at a time, each with one thread."""
    file = RESULTS / "universe.json"
    alignments = json.loads(file.read_text(encoding="utf-8"))["alignments"] if file.exists() else {}
    with ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        alignments |= dict(zip(wanted, pool.map(universe, wanted), strict=True))
    record("universe", {"what": __doc__.split("\n")[0], "models": THREE, "alignments": alignments})


if __name__ == "__main__":
    main(sys.argv[1:] or WAYS)
