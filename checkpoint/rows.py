"""Tensors in blocks of rows: even the largest tensor of a model is never in memory as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

BLOCK = 2**18  # items


@runtime_checkable
class InBlocks(Protocol):
    """A state that yields a tensor block by block, split as by `row_counts`."""

    def blocks(self, name: str) -> Iterator[Tensor]:
        """The blocks of one tensor, float32, in order."""
        ...


def row_counts(shape: Sequence[int]) -> list[int]:
    """The rows of each block of a tensor: as many as have `BLOCK` items, at least one."""
    rows = shape[0] if shape else 1
    block_rows = max(1, BLOCK // max(1, math.prod(shape[1:])))
    return [min(block_rows, rows - start) for start in range(0, rows, block_rows)]


def in_blocks(state: Mapping[str, Tensor], name: str) -> Iterator[Tensor]:
    """The blocks of a tensor, split in the same way in all states where it has this shape."""
    if isinstance(state, InBlocks):
        return state.blocks(name)
    tensor = state[name]
    return iter(torch.split(tensor, row_counts(tensor.shape))) if tensor.ndim else iter([tensor])
