"""Averages of independent models in closed form, as they are and with their maps to the stream fitted by least squares.

Losses above the mean of the models, in nats per token, on docstrings that nothing was fitted to, and on source code,
which is only reported on: pairs at t = 1/2, and three models with equal weights. The baseline is the average as it is;
16,384 tokens of other docstrings are looked at.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from measurement import record

import isthmus

EMBEDDED = Path(__file__).parents[1] / "lab" / "checkpoints"
GROUPS = (("adamw-1", "adamw-2"), ("muon-1", "muon-2"), ("adamw-1", "muon-1"), ("adamw-1", "adamw-2", "muon-1"))
DATA = ("docs=stdlib:docs", "code=stdlib:code")


def row(names: tuple[str, ...], *, refit: bool) -> dict[str, Any]:
    """One average."""
    t = 0.5 if len(names) == 2 else None
    plan = isthmus.MergePlan(DATA, align="combined", t=t, refit=refit, report_on=("code",))
    began = time.monotonic()
    report = isthmus.merge_models([EMBEDDED / name for name in names], plan).report
    return {
        "excess": {label: round(value, 4) for label, value in report["merge_point"]["excesses"].items()},
        "spectrum": report["spectrum"]["verdict"],
        "spectral_excess": round(report["spectrum"]["excess"], 4),
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    rows = {
        ", ".join(names): {"as it is": row(names, refit=False), "fitted": row(names, refit=True)} for names in GROUPS
    }
    record("refit", {"what": __doc__.split("\n")[0], "baseline": "the average as it is", "rows": rows})


if __name__ == "__main__":
    sys.exit(main())
