"""Which layers and parts of a merge cost loss: one of them at a time is swapped for a parent's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .explanation import PARTS, Cell
from .loss import Losses, LossMeter


@dataclass(frozen=True)
class Swap:
    """What is taken from a parent (0 for A): a layer, or a part of the model in all layers; the tensors of it."""

    parent: int
    layer: int | None
    part: str | None
    names: tuple[str, ...]


def swaps(cells: Mapping[str, Cell], parents: int) -> list[Swap]:
    """Every layer and every part, from every parent."""
    layers = sorted({cell.layer for cell in cells.values() if cell.layer is not None})
    parts = [part for part in PARTS if any(cell.part == part for cell in cells.values())]
    all_of_them = []
    for parent in range(parents):
        for layer in layers:
            names = tuple(name for name, cell in cells.items() if cell.layer == layer)
            all_of_them.append(Swap(parent, layer, None, names))
        for part in parts:
            names = tuple(name for name, cell in cells.items() if cell.part == part)
            all_of_them.append(Swap(parent, None, part, names))
    return all_of_them


def swapped(merge: Mapping[str, Tensor], parent: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """The merge with some tensors of a parent."""
    return {**{name: merge[name] for name in merge}, **{name: parent[name] for name in names}}


def measured_swaps(
    merge: Mapping[str, Tensor],
    parents: Sequence[Mapping[str, Tensor]],
    wanted: Sequence[Swap],
    meter: LossMeter,
    report: Mapping[str, Tensor],
    on_swap: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """L(swap) − L(merge) of every swap on the meter's blocks, with paired standard errors; JSON-ready.

    The swap with the lowest difference, if that is negative, is measured again on the blocks `report`, which did not
    choose it: ``best`` has both differences, and whether the gain is more than the noise there.
    """
    own = meter(merge)
    on_swap()
    rows = []
    for swap in wanted:
        row = _row(swap, meter(swapped(merge, parents[swap.parent], swap.names)) - own)
        rows.append(row)
        on_swap()
    best = None
    lowest = min(range(len(rows)), key=lambda place: rows[place]["difference"], default=None)
    if lowest is not None and rows[lowest]["difference"] < 0:
        swap = wanted[lowest]
        other = swapped(merge, parents[swap.parent], swap.names)
        again = meter(other, report) - meter(merge, report)
        there = {"report_difference": again.mean, "report_stderr": again.stderr}
        best = {**rows[lowest], **there, "gains": (-again).is_surely_positive}
    return {"loss": own.mean, "stderr": own.stderr, "rows": rows, "best": best}


def _row(swap: Swap, change: Losses) -> dict[str, Any]:
    facts = {"parent": swap.parent, "layer": swap.layer, "part": swap.part}
    return {**facts, "difference": change.mean, "stderr": change.stderr}
