"""Several processes, as `accelerate launch` starts them: which one writes, and how they share the measuring."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def several() -> bool:
    """Whether this process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main() -> bool:
    """Whether this process is the one that writes files and to the terminal."""
    return int(os.environ.get("RANK", "0")) == 0


def shared(rows: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """compute(rows): every process computes its share of the rows, and all of them get all results."""
    if not several():
        return compute(rows)
    from accelerate import PartialState
    from accelerate.utils import gather

    processes = PartialState()
    with processes.split_between_processes(rows, apply_padding=True) as mine:
        gathered: Tensor = gather(compute(mine).to(processes.device))
    return gathered[: rows.shape[0]].to("cpu")


def finish() -> None:
    """Wait for the other processes and leave the process group."""
    if several():
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        PartialState().destroy_process_group()
