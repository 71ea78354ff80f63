"""Tensors in blocks of rows, so that the largest tensor of a model need not be in memory whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

BLOCK = 2**18  # items


@runtime_checkable
class InBlocks(Protocol):
    """A state that gives a tensor block by block, cut as `row_counts` says."""

    def blocks(self, name: str) -> Iterator[Tensor]:
        """The blocks of one tensor, float32, in order."""
        ...


def row_counts(shape: Sequence[int]) -> list[int]:
    """How many rows every block of a tensor has: as many as come to `BLOCK` items, at least one."""
    rows = shape[0] if shape else 1
    most = max(1, BLOCK // max(1, math.prod(shape[1:])))
    return [min(most, rows - start) for start in range(0, rows, most)]


def in_blocks(state: Mapping[str, Tensor], name: str) -> Iterator[Tensor]:
    """The blocks of a tensor, cut alike in all states that have one of its shape."""
    if isinstance(state, InBlocks):
        return state.blocks(name)
    tensor = state[name]
    return iter(torch.split(tensor, row_counts(tensor.shape))) if tensor.ndim else iter([tensor])
