"""What was fitted to one text, or to none, on other text: the embedded pairs against the closed form (the baseline).

The learned straight line, 1,000 steps of 8 x 128 tokens, and one bend, 300 steps of 32, with the defaults of `isthmus
merge`. They are fitted to docstrings, which both models were trained on beside source code, or to nothing but what the
models write; other text is then the probe's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from measurement import record

import isthmus

EMBEDDED = Path(__file__).parents[1] / "lab" / "checkpoints"
PAIRS = (("adamw-1", "adamw-2"), ("muon-1", "muon-2"), ("adamw-1", "muon-1"))
PLANS: dict[str, dict[str, Any]] = {
    "learned line": {"align": "learned"},
    "one bend": {"align": "orthogonal", "path": isthmus.CurvePlan()},
}
TEXTS = {"docstrings": ("stdlib:docs",), "no text": ()}


def fitted(a: str, b: str, data: tuple[str, ...], plan: dict[str, Any]) -> dict[str, Any]:
    report = isthmus.merge_models([EMBEDDED / a, EMBEDDED / b], isthmus.MergePlan(data, **plan)).report
    return {
        "naive": round(report["barrier_before_alignment"], 3),
        "barrier": {label: round(barrier, 3) for label, barrier in report["barriers"].items()},
        "on other text": {row["label"]: round(row["barrier"], 3) for row in report["probe"]},
        "closed form": {row["label"]: round(row["barrier_without_fitting"], 3) for row in report["probe"]},
        "holds": {row["label"]: row["holds"] for row in report["probe"]},
        "spectrum_along_path": report["path_spectrum"]["verdict"],
        "seconds": round(report["seconds"]),
    }


def main() -> None:
    cases: dict[str, Any] = {}
    for a, b in [pair for pair in PAIRS if not sys.argv[1:] or ",".join(pair) in sys.argv[1:]]:
        for way, plan in PLANS.items():
            for text, data in TEXTS.items():
                cases[f"{a}, {b}: {way}, {text}"] = fitted(a, b, data, plan)
                what = "barriers in nats per token on text that nothing was fitted to, by its label"
                baseline = "closed form: the best closed-form alignment's straight line"
                record("other_text", {"what": what, "baseline": baseline, "cases": cases})


if __name__ == "__main__":
    main()
