"""From a merge to an ensemble: the loss of wider merges of the embedded pairs, and what they cost; losses, not timings.

At t = 1/2, above the mean loss of both models, on docstrings that nothing was fitted to and on other text: the probe's
source code. `orthogonal` looks at no text; `learned` is fitted to other docstrings, 400 steps of 8 x 128 tokens. The
baseline is the merge with budget 1; the cost is in parameters of one model, that of the ensemble 2.

    python bench_budget.py [ALIGNMENT ...]

measures some alignments ('orthogonal', 'learned'); of the others, what was recorded stays.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from measurement import RESULTS, record

import isthmus
from isthmus.merge.plans import Align

EMBEDDED = Path(__file__).parents[1] / "lab" / "checkpoints"
PAIRS = (("adamw-1", "adamw-2"), ("muon-1", "muon-2"), ("adamw-1", "muon-1"))
BUDGETS: dict[Align, tuple[float, ...]] = {"orthogonal": (1.0, 1.25, 1.5, 1.75, 2.0), "learned": (1.0, 1.25, 1.5)}


def row(a: str, b: str, align: Align, budget: float) -> dict[str, Any]:
    """One merge, in nats per token."""
    plan = isthmus.MergePlan(("stdlib:docs",), align=align, learn=isthmus.LearnPlan(steps=400), t=0.5, budget=budget)
    report = isthmus.merge_models([EMBEDDED / a, EMBEDDED / b], plan).report
    point, widened = report["merge_point"], report["alignment"]["widened"]
    mean = point["loss"] - point["excess"]
    return {
        "pair": f"{a}, {b}",
        "align": report["alignment"]["method"],
        "budget": budget,
        "cost": round(1 + (widened["more_parameters"] if widened else 0.0), 3),
        "excess": round(point["excess"], 4),
        "ensemble": round(report["baselines"]["ensemble"]["loss"] - mean, 4),
        "barrier": round(report["barrier"], 4),
        "on other text": {other["label"]: round(other["barrier"], 4) for other in report["probe"]},
    }


def main(wanted: Sequence[str]) -> None:
    """Two at a time, each with one thread."""
    file = RESULTS / "budget.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    with ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for align in (one for one in BUDGETS if one in wanted):
            cases = [(a, b, align, budget) for a, b in PAIRS for budget in BUDGETS[align]]
            rows = [one for one in rows if one["align"] != align] + list(pool.map(row, *zip(*cases, strict=True)))
            record("budget", {"what": __doc__.split("\n")[0], "baseline": "the merge with budget 1", "rows": rows})


if __name__ == "__main__":
    main(sys.argv[1:] or list(BUDGETS))
