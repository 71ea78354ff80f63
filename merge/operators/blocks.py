"""The input of operators: the same rows of N tensors, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

STRETCH = 2**16  # items whose products are summed in float32
LARGEST = torch.finfo(torch.float32).max

Parts = Sequence[Tensor]  # the same rows of N tensors, float32
RowBlocks = Iterable[Parts]  # can be iterated again


class MappedBlocks:
    """Blocks under a function, computed anew in every iteration."""

    def __init__(self, blocks: RowBlocks, change: Callable[[Parts], Parts]):
        self._blocks, self._change = blocks, change

    def __iter__(self) -> Iterator[Parts]:
        return map(self._change, self._blocks)


class GeneratedBlocks:
    """Blocks that a function generates, anew in every iteration."""

    def __init__(self, generate: Callable[[], Iterator[Parts]]):
        self._generate = generate

    def __iter__(self) -> Iterator[Parts]:
        return self._generate()


class WholeVectors:
    """The same blocks; those of a vector, however long, as one."""

    def __init__(self, blocks: RowBlocks):
        self._blocks = blocks

    def __iter__(self) -> Iterator[Parts]:
        blocks = iter(self._blocks)
        first = next(blocks)
        if first[0].ndim > 1:
            yield first
            yield from blocks
        else:
            following = list(blocks)
            yield [torch.cat(parts) for parts in zip(first, *following, strict=True)] if following else first


def task_vectors(blocks: RowBlocks) -> MappedBlocks:
    """θ_i − θ_base of blocks whose first part is the base."""
    return MappedBlocks(blocks, lambda parts: [part - parts[0] for part in parts[1:]])


def weighted_sum(parts: Parts, weights: Sequence[float]) -> Tensor:
    """Σ w_i x_i; a new tensor. Raises OverflowError for weights beyond float32."""
    if any(abs(weight) > LARGEST for weight in weights):
        raise OverflowError("a factor is beyond float32")
    total = parts[0] * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total.add_(part, alpha=weight)
    return total


def plain_sum(parts: Parts) -> Tensor:
    """Σ x_i; a new tensor."""
    return weighted_sum(parts, [1.0] * len(parts))


def dot(x: Tensor, y: Tensor) -> float:
    """⟨x, y⟩: in float32 over short stretches, in float64 over all of them."""
    stretches = zip(x.flatten().split(STRETCH), y.flatten().split(STRETCH), strict=True)
    return sum(torch.dot(one, other).item() for one, other in stretches)


def gram(blocks: RowBlocks) -> Tensor:
    """The inner products ⟨x_i, x_j⟩ of whole tensors: (N, N), float64, whatever the blocks.

    Raises OverflowError where numbers are so large that their products are not finite.
    """
    total: Tensor | None = None
    for parts in blocks:
        products = torch.zeros(len(parts), len(parts), dtype=torch.float64)
        for i, one in enumerate(parts):
            for j, other in enumerate(parts[: i + 1]):
                products[i, j] = products[j, i] = dot(one, other)
        total = products if total is None else total + products
    assert total is not None, "there is at least one block"
    if not bool(torch.isfinite(total).all()):
        raise OverflowError("products of its numbers are beyond float32")
    return total
