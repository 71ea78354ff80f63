"""Barriers of learned lines and of curves beside the best closed form and no alignment (the baseline): the embedded
pairs.

The learned straight line, 1,000 steps of 8 x 128 tokens, and one bend, 300 steps of 32, with the defaults of `isthmus
merge`, on docstrings, and without text on what the models write. Other text is the probe's: after docstrings source
code, which the models were trained on, too, and without text docstrings.

    python bench_paths.py [TEXT or WAY ...]

measures some of the texts ('docstrings', 'no text'), or some of the ways ('learned line', 'one bend'); of the others,
what was recorded stays.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measurement import RESULTS, record

import isthmus

EMBEDDED = Path(__file__).parents[1] / "lab" / "checkpoints"
PAIRS = (("adamw-1", "adamw-2"), ("muon-1", "muon-2"), ("adamw-1", "muon-1"))
PLANS: dict[str, dict[str, Any]] = {
    "learned line": {"align": "learned"},
    "one bend": {"align": "orthogonal", "path": isthmus.CurvePlan()},
}
TEXTS: dict[str, tuple[str, ...]] = {"docstrings": ("stdlib:docs",), "no text": ()}


def path(a: str, b: str, data: tuple[str, ...], plan: dict[str, Any]) -> dict[str, Any]:
    report = isthmus.merge_models([EMBEDDED / a, EMBEDDED / b], isthmus.MergePlan(data, **plan)).report
    naive, along = report["barrier_before_alignment"], report["path_spectrum"]
    return {
        "naive": round(naive, 3),
        "line": round(report["line_barrier"], 3),
        "barrier": round(report["barrier"], 3),
        "share_of_naive": round(report["barrier"] / naive, 4),
        "on other text": {row["label"]: round(row["barrier"], 3) for row in report["probe"]},
        "closed form on other text": {
            row["label"]: round(row["barrier_without_fitting"], 3) for row in report["probe"]
        },
        "holds": {row["label"]: row["holds"] for row in report["probe"]},
        "spectrum_along_path": along["verdict"],
        "highest_spectral_excess": round(max(point["excess"] for point in along["points"]), 3),
        "max_log_prob_error": report["alignment"]["max_log_prob_error"],
        "merge_t": report["merge_point"]["t"],
        "gain": round(report["merge_point"]["gain"], 3),
        "seconds": round(report["seconds"]),
    }


def main(wanted: Sequence[str]) -> None:
    texts = [text for text in TEXTS if text in wanted] or list(TEXTS)
    ways = {way: plan for way, plan in PLANS.items() if way in wanted} or PLANS
    file = RESULTS / "paths.json"
    cases: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["cases"] if file.exists() else {}
    for text in texts:
        for way, plan in ways.items():
            for a, b in PAIRS:
                cases[f"{a}, {b}: {way}, {text}"] = path(a, b, TEXTS[text], plan)
                what = "barriers in nats per token on text that nothing was fitted to"
                baseline = "naive: the straight line without alignment; closed form: the one that fitting began with"
                record("paths", {"what": what, "baseline": baseline, "cases": cases})


if __name__ == "__main__":
    main(sys.argv[1:])
