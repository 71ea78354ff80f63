"""Tensors in blocks of rows: even the largest tensor of a model is never in memory as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

BLOCK = 2**18  # items


def row_counts(shape: Sequence[int]) -> list[int]:
    """The rows of each block of a tensor: as many as have `BLOCK` items, at least one."""
    rows = shape[0] if shape else 1
    block_rows = max(1, BLOCK // max(1, math.prod(shape[1:])))
    return [min(block_rows, rows - start) for start in range(0, rows, block_rows)]


def in_blocks(state: Mapping[str, Tensor], name: str) -> Iterator[Tensor]:
    """The blocks of a tensor, split in the same way in all states where it has this shape.

    A state that can give a tensor without having it whole has a method ``blocks(name)``, split as by `row_counts`.
    """
    blocks: Callable[[str], Iterator[Tensor]] | None = getattr(state, "blocks", None)
    if blocks is not None:
        return blocks(name)
    tensor = state[name]
    return iter(torch.split(tensor, row_counts(tensor.shape))) if tensor.ndim else iter([tensor])


def rows_of(state: Mapping[str, Tensor], name: str, start: int, stop: int) -> Tensor:
    """The rows `start:stop` of a tensor, or fewer if it has no more.

    A state that can give some rows without having the tensor whole has a method ``rows(name, start, stop)``.
    """
    rows: Callable[[str, int, int], Tensor] | None = getattr(state, "rows", None)
    return state[name][start:stop] if rows is None else rows(name, start, stop)


def first_of(*states: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors of several states, each from the first that has it; nothing is read before it is looked up."""
    owners: dict[str, Mapping[str, Tensor]] = {}
    for state in states:
        for name in state:
            owners.setdefault(name, state)
    return ComputedState(owners, lambda name: owners[name][name], lambda name: in_blocks(owners[name], name))


class ComputedState(Mapping[str, Tensor]):
    """A state of some `names` whose tensors are computed, by `tensor`, when they are looked up.

    `blocks` gives a tensor in blocks of rows, and `rows` some rows of it (`rows_of`), without ever having it whole,
    where that is possible.
    """

    def __init__(
        self,
        names: Iterable[str],
        tensor: Callable[[str], Tensor],
        blocks: Callable[[str], Iterator[Tensor]] | None = None,
        rows: Callable[[str, int, int], Tensor] | None = None,
    ):
        self._names, self._tensor, self._blocks, self._rows = dict.fromkeys(names), tensor, blocks, rows

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def blocks(self, name: str) -> Iterator[Tensor]:
        """One tensor in blocks of rows."""
        return in_blocks({name: self[name]}, name) if self._blocks is None else self._blocks(name)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some rows of a tensor."""
        if self._rows is not None:
            return self._rows(name, start, stop)
        if self._blocks is None:
            return self[name][start:stop]
        parts, first = list[Tensor](), 0
        for block in self._blocks(name):
            if (first < stop and first + len(block) > start) or not parts:  # one part at least, were it empty
                parts.append(block[max(0, start - first) : max(0, stop - first)])
            first += len(block)
        return torch.cat(parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
