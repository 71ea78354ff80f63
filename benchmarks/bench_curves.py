"""Barriers of trained curves against the straight line (the baseline): the embedded pairs, closed-form alignment.

One bend, 300 steps of 32 x 128 tokens, with the defaults of `isthmus path`; with --long also with four times the steps.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from measurement import record

import isthmus
from isthmus.merge.plans import CurvePlan, PathTraining

EMBEDDED = Path(__file__).parents[1] / "lab" / "checkpoints"
DATA = ("stdlib:docs", "stdlib:code")
PAIRS = (("adamw-1", "adamw-2"), ("muon-1", "muon-2"), ("adamw-1", "muon-1"))


def curve(a: str, b: str, steps: int) -> dict[str, Any]:
    plan = CurvePlan(training=PathTraining(steps=steps))
    ends = EMBEDDED / a, EMBEDDED / b
    report = isthmus.merge_models(ends, isthmus.MergePlan(DATA, align="orthogonal", path=plan)).report
    naive, line, bent = (report[key] for key in ("barrier_before_alignment", "line_barrier", "barrier"))
    ends_loss = [end["loss"] for end in report["endpoints"]]

    def excess(row: dict[str, Any], label: str) -> float:
        return row["losses"][label] - (1 - row["t"]) * ends_loss[0][label] - row["t"] * ends_loss[1][label]

    numbers = {
        "optimizer": report["path"]["optimizer"],
        "naive": round(naive, 3),
        "line": round(line, 3),
        "curve": round(bent, 3),
        "share_of_naive": round(bent / naive, 4),
        "spectrum_along_path": report["path_spectrum"]["verdict"],
        "highest_spectral_excess": round(max(point["excess"] for point in report["path_spectrum"]["points"]), 3),
        "seconds": round(report["seconds"]),
    }
    for label in ("docs", "code"):
        values = [excess(row, label) for row in report["profile"]]
        numbers[f"{label}: highest and lowest excess"] = [round(max(values), 3), round(min(values), 3)]
        numbers[f"{label}: excess at the merge point"] = round(report["merge_point"]["excesses"][label], 3)
    numbers["merge_t"], numbers["gain"] = report["merge_point"]["t"], round(report["merge_point"]["gain"], 3)
    return numbers


def main() -> None:
    cases: dict[str, Any] = {}
    for a, b, steps in [(a, b, steps) for steps in ((300, 1200) if "--long" in sys.argv else (300,)) for a, b in PAIRS]:
        cases[f"{a}, {b}, {steps} steps"] = curve(a, b, steps)
        record(
            "curves",
            {
                "what": "barriers in nats per token on 8,192 tokens each of docstrings and code, kept for the report",
                "baseline": "naive: the straight line without alignment; line: after orthogonal alignment",
                "cases": cases,
            },
        )


if __name__ == "__main__":
    main()
