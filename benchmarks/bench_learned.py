"""Barriers of learned alignments beside the best closed form and no alignment (the baseline): the embedded pairs.

The straight line, learned as `isthmus merge --align learned` does by default, 1,000 steps of 8 x 128 tokens; with --bends
also one bend trained with the alignment, 300 steps of 32.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from measurement import record

import isthmus

EMBEDDED = Path(__file__).parents[1] / "lab" / "checkpoints"
DATA = ("stdlib:docs", "stdlib:code")
PAIRS = (("adamw-1", "adamw-2"), ("muon-1", "muon-2"), ("adamw-1", "muon-1"))


def learned(a: str, b: str, path: Any) -> dict[str, Any]:
    report = isthmus.merge_models(
        [EMBEDDED / a, EMBEDDED / b], isthmus.MergePlan(DATA, align="learned", path=path)
    ).report
    naive, line, found = (report[key] for key in ("barrier_before_alignment", "line_barrier", "barrier"))
    return {
        "started_from": report["alignment"]["learning"]["start"],
        "naive": round(naive, 3),
        "line": round(line, 3),
        "path": round(found, 3),
        "share_of_naive": round(found / naive, 4),
        "max_log_prob_error": report["alignment"]["max_log_prob_error"],
        "spectrum": report["spectrum"]["verdict"],
        "along_path": report["path_spectrum"]["verdict"],
        "highest_spectral_excess": round(max(point["excess"] for point in report["path_spectrum"]["points"]), 3),
        "excess along the path": [round(row["excess"], 3) for row in report["profile"]],
        "merge_t": report["merge_point"]["t"],
        "gain": round(report["merge_point"]["gain"], 3),
        "alignment_seconds": round(report["alignment"]["seconds"]),
        "seconds": round(report["seconds"]),
    }


def main() -> None:
    cases: dict[str, Any] = {}
    for a, b in PAIRS:
        cases[f"{a}, {b}, line"] = learned(a, b, "linear")
        if "--bends" in sys.argv:
            cases[f"{a}, {b}, one bend"] = learned(a, b, isthmus.CurvePlan())
        record(
            "learned",
            {
                "what": "barriers in nats per token on 8,192 tokens each of docstrings and code, kept for the report",
                "baseline": "naive: the straight line without alignment",
                "cases": cases,
            },
        )


if __name__ == "__main__":
    main()
