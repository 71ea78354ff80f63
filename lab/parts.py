"""A study in parts: each is computed once and saved as JSON, several at a time, on one core each."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from statistics import stdev
from typing import Any

import torch

from ..checkpoint.saving import replace_json
from ..eval.progress import Progress

Part = Callable[[], Mapping[str, Any]]


def compute(
    directory: Path, parts: Mapping[str, Part], stage: str, workers: int = 1, progress: Progress | None = None
) -> dict[str, Any]:
    """The results of all parts by name, read from `directory`/NAME.json where that exists.

    With several `workers`, parts are computed in processes of their own, and must be functions that can be pickled.
    Finished parts survive an interruption.
    """
    progress = progress or Progress()
    directory.mkdir(parents=True, exist_ok=True)
    files = {name: directory / f"{name}.json" for name in parts}
    missing = [name for name, file in files.items() if not file.exists()]
    progress.stage(stage, len(missing))
    if workers > 1 and len(missing) > 1:
        with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            running: list[Future[None]] = [pool.submit(_keep, parts[name], files[name]) for name in missing]
            try:
                for done in as_completed(running):
                    done.result()
                    progress.advance()
            except BaseException:
                pool.shutdown(cancel_futures=True)  # running parts are finished and saved
                raise
    else:
        for name in missing:
            _keep(parts[name], files[name])
            progress.advance()
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}


def cores() -> int:
    """The number of parts that may be computed at a time."""
    return os.cpu_count() or 1


def spread(values: Sequence[float]) -> float:
    """The standard deviation; 0 of a single value, whose spread is unknown."""
    return stdev(values) if len(values) > 1 else 0.0


def _keep(part: Part, file: Path) -> None:
    replace_json(file, part())
