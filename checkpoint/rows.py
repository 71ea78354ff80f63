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


def first_of(*states: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors of several states, each from the first that has it; nothing is read before it is looked up."""
    owners: dict[str, Mapping[str, Tensor]] = {}
    for state in states:
        for name in state:
            owners.setdefault(name, state)
    return ComputedState(owners, lambda name: owners[name][name], lambda name: in_blocks(owners[name], name))


class ComputedState(Mapping[str, Tensor]):
    """A state of some `names` whose tensors are computed, by `tensor`, when they are looked up.

    `blocks` gives a tensor in blocks of rows without ever having it whole, where that is possible.
    """

    def __init__(
        self,
        names: Iterable[str],
        tensor: Callable[[str], Tensor],
        blocks: Callable[[str], Iterator[Tensor]] | None = None,
    ):
        self._names, self._tensor, self._blocks = dict.fromkeys(names), tensor, blocks

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def blocks(self, name: str) -> Iterator[Tensor]:
        """One tensor in blocks of rows."""
        return in_blocks({name: self[name]}, name) if self._blocks is None else self._blocks(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
