"""Several processes, as `accelerate launch` starts them: which one writes, and how they share the measuring."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from accelerate import PartialState
    from torch import Tensor

PATIENCE = timedelta(days=1)
T = TypeVar("T")
R = TypeVar("R")


def several() -> bool:
    """Whether this process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def sharding() -> bool:
    """Whether several processes share every model (FSDP), as `accelerate launch --use_fsdp` asks for, and its
    environment variable does where that cannot be said, as without GPUs.
    """
    return several() and os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("true", "1")


def is_main() -> bool:
    """Whether this process is the one that writes files and to the terminal."""
    return int(os.environ.get("RANK", "0")) == 0


def processes_of_job() -> PartialState:
    """What accelerate knows of the processes: on processors alone it counts them only if it is told that there are no
    GPUs. They wait for each other as long as `PATIENCE`, as while the main one aligns large models.
    """
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)


def shared(rows: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """compute(rows): every process computes its share of the rows, and all of them get all results."""
    if not several():
        return compute(rows)
    from accelerate.utils import gather

    processes = processes_of_job()
    with processes.split_between_processes(rows, apply_padding=True) as mine:
        gathered: Tensor = gather(compute(mine).to(processes.device))
    return gathered[: rows.shape[0]].to("cpu")


def in_turn(items: Sequence[T], compute: Callable[[T], R]) -> list[R]:
    """compute(item) of every item: processes compute their share of the items, and all of them get all results, which
    are small and can be pickled.
    """
    if not several():
        return [compute(item) for item in items]
    from accelerate.utils import gather_object

    processes = processes_of_job()
    own = range(processes.process_index, len(items), processes.num_processes)
    results: dict[int, R] = dict(gather_object([(number, compute(items[number])) for number in own]))
    return [results[number] for number in range(len(items))]


def averaged(value: float) -> float:
    """The mean of a number over all processes."""
    if not several():
        return value
    import torch
    from accelerate.utils import reduce

    device = processes_of_job().device
    mean: Tensor = reduce(torch.tensor(value, dtype=torch.float32, device=device), "mean")
    return mean.item()


def from_main(compute: Callable[[], T]) -> T:
    """What the main process computes, in all of them: something small that can be pickled."""
    if not several():
        return compute()
    from accelerate.utils import broadcast_object_list

    processes_of_job()
    content: list[Any] = [compute() if is_main() else None]
    broadcast_object_list(content)
    value: T = content[0]
    return value


def wait_for_everyone() -> None:
    """Wait until all processes are here."""
    if several():
        processes_of_job().wait_for_everyone()


def finish() -> None:
    """Wait for the other processes and leave the process group."""
    if several():
        wait_for_everyone()
        processes_of_job().destroy_process_group()
