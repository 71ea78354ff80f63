"""SmolLM2-135M: a moved copy aligned back, its spectrum, every method against mergekit, and a merge with text.

The models are those of `smollm2.py`, in the directory that is named, or made in one that is removed at the end.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from bench_merge import MERGEKIT, install
from bench_operators import costs
from measurement import Cost, measure, record

PROGRAM = Path(sys.executable).parent / "isthmus"
ERROR = """
import json, sys, isthmus
a, b = (isthmus.load(place).state for place in sys.argv[1:])
from isthmus.align.canonical import canonical
from isthmus.align.families import family
first = isthmus.load(sys.argv[1])
form = canonical(first.state, family(first.config))
print(max(((form[name] - b[name]).abs().max() / form[name].abs().max()).item() for name in form))
"""


def shown(cost: Cost) -> dict[str, float]:
    return {"seconds": round(cost.seconds, 1), "peak_GB": round(cost.peak / 1e9, 2)}


def main(work: Path) -> None:
    program = install()
    if not (work / "base").exists():
        subprocess.run([sys.executable, Path(__file__).with_name("smollm2.py"), work], check=True)
    aligned = measure([PROGRAM, "align", work / "base", work / "moved", "-o", work / "back", "--overwrite"])
    error = subprocess.run(
        [sys.executable, "-c", ERROR, work / "base", work / "back"], check=True, capture_output=True, text=True
    )
    spectrum = measure([PROGRAM, "spectrum", work / "a", "--json", work / "spectrum.json"])
    text = ("--data", "stdlib:docs", "--data", "stdlib:code", "--context", "128", "--tokens", "512")
    merged = measure(
        [PROGRAM, "merge", work / "a", work / "b", "-o", work / "ours", "--overwrite", "--align", "none", *text]
    )
    record(
        "smollm2",
        {
            "what": __doc__.split("\n")[0],
            "baseline": MERGEKIT,
            "align a moved copy back": shown(aligned) | {"largest relative difference": float(error.stdout)},
            "spectrum": shown(spectrum),
            "merge with text": shown(merged),
            "methods": costs(work, program, []),
        },
    )


if __name__ == "__main__":
    if sys.argv[1:]:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
