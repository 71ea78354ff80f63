"""Sums of task vectors that are pruned otherwise than by their smallest entries: Model Breadcrumbs, and DELLA.

Parameters are those of `isthmus.merge.operators.task_vectors`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from .blocks import MappedBlocks, Parts, RowBlocks, WholeVectors
from .masks import Count, Masks, cuts, magnitudes
from .task_vectors import elected, sparse, summed


def breadcrumbs(
    blocks: RowBlocks,
    *,
    weights: Sequence[float],
    densities: Sequence[float],
    gammas: Sequence[float],
    scale: float = 1.0,
    normalize: bool = False,
    rescale: bool = False,
) -> Iterator[Tensor]:
    """θ_base + λ Σ w_i δ̃_i, where δ̃_i lacks the largest entries of δ_i, and the smallest (Davari & Belilovsky 2024,
    arXiv 2312.06795).

    The `gammas[i]` largest entries are dropped, then the smallest until `densities[i]` are left; fewer large ones where
    there are not enough small ones. All are kept at density 1.
    """
    return summed(without_extremes(blocks, densities, gammas, rescale=rescale), weights, scale, normalize)


def breadcrumbs_ties(
    blocks: RowBlocks,
    *,
    weights: Sequence[float],
    densities: Sequence[float],
    gammas: Sequence[float],
    scale: float = 1.0,
    normalize: bool = False,
    rescale: bool = False,
) -> Iterator[Tensor]:
    """Prune as in `breadcrumbs`, then elect signs and merge as in `ties`."""
    return elected(without_extremes(blocks, densities, gammas, rescale=rescale), weights, scale, normalize)


def della_linear(
    blocks: RowBlocks,
    *,
    weights: Sequence[float],
    densities: Sequence[float],
    epsilons: Sequence[float],
    key: str,
    scale: float = 1.0,
    normalize: bool = False,
    rescale: bool = True,
) -> Iterator[Tensor]:
    """θ_base + λ Σ w_i δ̃_i, where the larger entries of δ_i are kept with a higher probability (Deep et al. 2024, arXiv
    2406.11617).

    Of a row of n entries, that of rank r by magnitude, 0 for the smallest, is kept with the probability density − ε +
    2 ε r / (n − 1); a vector is one row. `key` seeds the choice.
    """
    return summed(kept_by_rank(blocks, densities, epsilons, key, rescale=rescale), weights, scale, normalize)


def della(
    blocks: RowBlocks,
    *,
    weights: Sequence[float],
    densities: Sequence[float],
    epsilons: Sequence[float],
    key: str,
    scale: float = 1.0,
    normalize: bool = True,
    rescale: bool = True,
) -> Iterator[Tensor]:
    """Drop and rescale as in `della_linear`, then elect signs and merge as in `ties`."""
    return elected(kept_by_rank(blocks, densities, epsilons, key, rescale=rescale), weights, scale, normalize)


def without_extremes(
    blocks: RowBlocks, densities: Sequence[float], gammas: Sequence[float], *, rescale: bool
) -> Iterator[Parts]:
    """The base and the task vectors, without their largest and their smallest entries."""
    return sparse(blocks, densities, _between(blocks, densities, gammas), rescale=rescale)


def kept_by_rank(
    blocks: RowBlocks, densities: Sequence[float], epsilons: Sequence[float], key: str, *, rescale: bool
) -> Iterator[Parts]:
    """The base and the task vectors, with entries that are kept with a probability by their rank; whole vectors."""
    return sparse(WholeVectors(blocks), densities, _by_rank(densities, epsilons, key), rescale=rescale)


def _between(blocks: RowBlocks, densities: Sequence[float], gammas: Sequence[float]) -> Callable[[], Masks]:
    thin = [i for i, density in enumerate(densities) if 0 < density < 1]
    chosen = MappedBlocks(blocks, lambda parts: [parts[i + 1] - parts[0] for i in thin])
    counts: list[list[Count]] = []
    for i in thin:
        dropped = partial(_dropped, density=densities[i], gamma=gammas[i])
        counts.append([dropped, partial(_with_kept, dropped, density=densities[i])])
    both = dict(zip(thin, cuts(chosen, counts) if thin else [], strict=True))

    def masker() -> Masks:
        tied = {i: [0, 0] for i in thin}

        def mask(i: int, delta: Tensor) -> Tensor | None:
            if i not in tied:
                return None if densities[i] >= 1 else torch.zeros_like(delta, dtype=torch.bool)
            above, down_to = both[i]
            largest, tied[i][0] = above.mask(delta, tied[i][0])
            and_kept, tied[i][1] = down_to.mask(delta, tied[i][1])
            return and_kept.logical_xor_(largest)  # what is dropped is among them

        return lambda deltas: [mask(i, delta) for i, delta in enumerate(deltas)]

    return masker


def _dropped(entries: int, _: int, *, density: float, gamma: float) -> int:
    """How many of the largest entries are dropped."""
    return min(int(gamma * entries), entries - int(density * entries))


def _with_kept(dropped: Count, entries: int, filled: int, *, density: float) -> int:
    return dropped(entries, filled) + int(density * entries)


def _by_rank(densities: Sequence[float], epsilons: Sequence[float], key: str) -> Callable[[], Masks]:
    def masker() -> Masks:
        seeds = [zlib.crc32(f"{key}/{i}".encode()) for i in range(len(densities))]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def mask(i: int, delta: Tensor) -> Tensor | None:
            if densities[i] >= 1:
                return None
            if densities[i] <= 0:
                return torch.zeros_like(delta, dtype=torch.bool)
            drawn = torch.rand(delta.shape, generator=generators[i])
            return drawn < _probabilities(delta, densities[i], epsilons[i])

        return lambda deltas: [mask(i, delta) for i, delta in enumerate(deltas)]

    return masker


def _probabilities(delta: Tensor, density: float, epsilon: float) -> Tensor:
    """The probability that an entry is kept, by its rank in its row; among equals by its place."""
    rows = (delta.reshape(1, -1) if delta.ndim < 2 else delta).movedim(1, -1)
    # Magnitude and place in one integer: numpy sorts these several times as fast as torch sorts numbers with places.
    order = magnitudes(rows).astype(np.int64)
    order <<= 32
    order |= np.arange(len(order))
    order = order.reshape(rows.shape)
    order.sort(axis=-1)
    last = rows.shape[-1] - 1
    place = torch.arange(last + 1) / last if last > 0 else torch.tensor([0.5])
    by_rank = (density - epsilon + 2 * epsilon * place).expand(rows.shape)
    probabilities = torch.empty(order.size)
    probabilities.scatter_(0, torch.from_numpy(order & (2**32 - 1)).flatten(), by_rank.flatten())
    return probabilities.view(rows.shape).movedim(-1, 1).reshape(delta.shape)
