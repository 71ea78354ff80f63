"""What `isthmus merge --plan` foresees beside what then happens: time and memory of whole processes, six commands.

The baseline is the merge itself. Times are those of a machine that does nothing else.

    python bench_plan.py [WORD ...]

measures the commands whose names have one of the words; of the others, what was recorded stays.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from measurement import RESULTS, measure, record

EMBEDDED = Path(__file__).parents[1] / "lab" / "checkpoints"
DATA = ("--data", "stdlib:docs:heldout", "--data", "stdlib:code:heldout")
AT_A_POINT = ("--t", "0.5")


def commands(gpt2: list[Path]) -> dict[str, list[object]]:
    """What is merged, by what it is called."""
    adamw, muon, other = (EMBEDDED / name for name in ("adamw-1", "muon-1", "adamw-2"))
    return {
        "two relatives, auto": [EMBEDDED / "docs", EMBEDDED / "code", *DATA],
        "two strangers, auto, 200 learned steps": [adamw, muon, *DATA, "--align-steps", "200"],
        "two strangers, a curve of 60 steps": [adamw, muon, *DATA, "--path", "polychain", "--steps", "60"],
        "three strangers, auto": [adamw, other, muon, *DATA],
        "two GPT-2 small, plain average": [*gpt2, "--align", "none", *AT_A_POINT],
        "two GPT-2 small, aligned": [*gpt2, "--align", "orthogonal", *AT_A_POINT],
    }


def main(wanted: list[str]) -> None:
    program, file = Path(sys.executable).parent / "isthmus", RESULTS / "plan.json"
    rows = json.loads(file.read_text())["commands"] if wanted and file.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        gpt2 = [work / "a", work / "b"]
        subprocess.run([sys.executable, Path(__file__).with_name("gpt2_small.py"), *gpt2], check=True)
        for name, words in commands(gpt2).items():
            if wanted and not any(one in name for one in wanted):
                continue
            command = [program, "merge", *words, "-o", work / "merged", "--overwrite"]
            planned = subprocess.run(
                [*map(str, command), "--plan", "--json", "-", "--quiet"], check=True, capture_output=True, text=True
            )
            foreseen, cost = json.loads(planned.stdout), measure(command)
            rows[name] = {
                "foreseen_seconds": foreseen["seconds"],
                "seconds": round(cost.seconds, 1),
                "time_ratio": round(foreseen["seconds"] / cost.seconds, 3),
                "foreseen_GB": round(foreseen["memory"] / 1e9, 3),
                "peak_GB": round(cost.peak / 1e9, 3),
                "memory_ratio": round(foreseen["memory"] / cost.peak, 3),
            }
            print(name, rows[name], flush=True)
    record("plan", {"what": __doc__.split("\n")[0], "baseline": "the merge that the plan is of", "commands": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
