"""The cost of running a command: wall time in seconds, peak memory of the process in bytes."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Cost:
    seconds: float
    peak: int


def measure(command: Sequence[object]) -> Cost:
    """Run a command to its end, quietly; it must succeed. What others wrote is on the disk before it starts."""
    os.sync()
    began = time.perf_counter()
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"failed ({process.returncode}): {' '.join(map(str, command))}")
    return Cost(seconds, usage.ru_maxrss * 1024)


def best(command: Sequence[object], runs: int = 3) -> Cost:
    """The fastest of several runs, with the highest peak."""
    costs = [measure(command) for _ in range(runs)]
    return Cost(min(cost.seconds for cost in costs), max(cost.peak for cost in costs))


def record(name: str, numbers: dict[str, object]) -> None:
    """Print numbers and keep them in results/NAME.json with the machine and versions."""
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    content = {**numbers, "machine": machine, "versions": {p: version(p) for p in ("isthmus", "torch", "transformers")}}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content, indent=1))
