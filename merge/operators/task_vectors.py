"""Task arithmetic, TIES and DARE: sums of (sparsified) task vectors δ_i = θ_i − θ_base, with or without elected signs.

In all of them `blocks` are float32, the base first; every model has a weight w_i and, where entries are dropped, a
density: the share of the entries of δ_i that are kept. `scale` (λ) multiplies the sum that is added to the base;
`normalize` divides it by the weights that went into it. `rescale` multiplies the entries that are kept so that Σ |δ_i|
is as before: DARE's 1 / density without its sampling noise. Where magnitude decides, a tensor of positive density keeps
at least one entry.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .blocks import MappedBlocks, Parts, RowBlocks, plain_sum, weighted_sum
from .masks import BernoulliMasks, Masks, RepeatedMasks, cuts, keep, share_of

NOTHING = 1e-8
SMALLEST_SUM = 1e-7


def task_arithmetic(
    blocks: RowBlocks, *, weights: Sequence[float], scale: float = 1.0, normalize: bool = False
) -> Iterator[Tensor]:
    """θ_base + λ Σ w_i δ_i (Ilharco et al. 2023, arXiv 2212.04089)."""
    return summed(task_vectors_beside_base(blocks), weights, scale, normalize)


def task_vectors_beside_base(blocks: RowBlocks) -> Iterator[Parts]:
    """The base and the task vectors (δ_1, …, δ_N)."""
    return iter(MappedBlocks(blocks, lambda parts: [parts[0], *(part - parts[0] for part in parts[1:])]))


def ties(
    blocks: RowBlocks,
    *,
    weights: Sequence[float],
    densities: Sequence[float],
    scale: float = 1.0,
    normalize: bool = True,
    rescale: bool = False,
) -> Iterator[Tensor]:
    """Trim, elect sign, merge (Yadav et al. 2023, arXiv 2306.01708).

    Of every δ_i the `densities[i]` largest entries are kept; each coordinate elects the sign of Σ w_i δ_i; the entries
    of that sign are averaged with their weights (summed, without `normalize`).
    """
    return elected(kept_largest(blocks, densities, rescale=rescale), weights, scale, normalize)


def dare_linear(
    blocks: RowBlocks,
    *,
    weights: Sequence[float],
    densities: Sequence[float],
    key: str,
    scale: float = 1.0,
    normalize: bool = False,
    rescale: bool = True,
) -> Iterator[Tensor]:
    """Drop and rescale, then sum: θ_base + λ Σ w_i δ̃_i (Yu et al. 2024, arXiv 2311.03099).

    Every entry of δ_i is kept with probability `densities[i]`; `key` seeds the choice.
    """
    return summed(kept_at_random(blocks, densities, key, rescale=rescale), weights, scale, normalize)


def dare_ties(
    blocks: RowBlocks,
    *,
    weights: Sequence[float],
    densities: Sequence[float],
    key: str,
    scale: float = 1.0,
    normalize: bool = False,
    rescale: bool = True,
) -> Iterator[Tensor]:
    """Drop and rescale as in `dare_linear`, then elect signs and merge as in `ties`."""
    return elected(kept_at_random(blocks, densities, key, rescale=rescale), weights, scale, normalize)


def kept_largest(blocks: RowBlocks, densities: Sequence[float], *, rescale: bool) -> Iterator[Parts]:
    """The base and the task vectors, each with its share of the largest entries and zeros."""
    return sparse(blocks, densities, _largest_entries(blocks, densities), rescale=rescale)


def kept_at_random(blocks: RowBlocks, densities: Sequence[float], key: str, *, rescale: bool) -> Iterator[Parts]:
    """The base and the task vectors, each with entries that are kept with its probability and zeros."""
    return sparse(blocks, densities, _random_entries(densities, key), rescale=rescale)


def sparse(
    blocks: RowBlocks, densities: Sequence[float], masker: Callable[[], Masks], *, rescale: bool
) -> Iterator[Parts]:
    """The base and the task vectors (δ_1, …, δ_N), some of their entries set to zero; `masker` makes masks for a pass.

    With `rescale` the entries that are kept are multiplied so that Σ |δ_i| of a tensor does not change.
    """
    factors = [1.0] * len(densities)
    if rescale and min(densities) < 1:
        repeated = RepeatedMasks(masker)
        factors, masks = _rescaling(blocks, repeated.first()), repeated.again()
    else:
        masks = masker()
    for base, *models in blocks:
        deltas = [model - base for model in models]
        for delta, mask, factor in zip(deltas, masks(deltas), factors, strict=True):
            if mask is not None:
                keep(delta, mask)
            if factor != 1:
                delta.mul_(factor)
        yield [base, *deltas]


def _rescaling(blocks: RowBlocks, masks: Masks) -> list[float]:
    """Σ |δ_i| over all entries, divided by the sum over those that are kept."""
    sums: dict[int, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for base, *models in blocks:
        deltas = [model - base for model in models]
        for i, (delta, mask) in enumerate(zip(deltas, masks(deltas), strict=True)):
            before = float(delta.abs_().sum())
            after = float((delta if mask is None else keep(delta, mask)).sum())
            sums[i] = sums[i][0] + before, sums[i][1] + after
    return [1.0 if min(whole, part) < SMALLEST_SUM else whole / part for whole, part in sums.values()]


def _largest_entries(blocks: RowBlocks, densities: Sequence[float]) -> Callable[[], Masks]:
    thin = [i for i, density in enumerate(densities) if 0 < density < 1]
    chosen = MappedBlocks(blocks, lambda parts: [parts[i + 1] - parts[0] for i in thin])
    largest = cuts(chosen, [[share_of(densities[i])] for i in thin]) if thin else []
    thresholds = {i: cut for i, (cut,) in zip(thin, largest, strict=True)}

    def masker() -> Masks:
        tied = dict.fromkeys(thin, 0)

        def mask(i: int, delta: Tensor) -> Tensor | None:
            if i not in tied:
                return None if densities[i] >= 1 else torch.zeros_like(delta, dtype=torch.bool)
            largest, tied[i] = thresholds[i].mask(delta, tied[i])
            return largest

        return lambda deltas: [mask(i, delta) for i, delta in enumerate(deltas)]

    return masker


def _random_entries(densities: Sequence[float], key: str) -> Callable[[], Masks]:

    def masker() -> Masks:
        seeds = [zlib.crc32(f"{key}/{i}".encode()) for i in range(len(densities))]
        draws = [BernoulliMasks(density, seed) for density, seed in zip(densities, seeds, strict=True)]
        return lambda deltas: [masks.draw(delta.shape) for masks, delta in zip(draws, deltas, strict=True)]

    return masker


def summed(vectors: Iterator[Parts], weights: Sequence[float], scale: float, normalize: bool) -> Iterator[Tensor]:
    """θ_base + λ Σ w_i δ_i, over Σ w_i with `normalize`."""
    total = sum(weights)
    factor = scale / total if normalize and abs(total) >= NOTHING else scale
    for base, *deltas in vectors:
        yield weighted_sum(deltas, [factor * weight for weight in weights]).add_(base)


def elected(vectors: Iterator[Parts], weights: Sequence[float], scale: float, normalize: bool) -> Iterator[Tensor]:
    """θ_base + λ Σ w_i δ_i over entries of the sign of Σ w_i δ_i, over the Σ w_i of these with `normalize`."""
    for base, *deltas in vectors:
        _, merged, divisor = election(deltas, weights)
        if normalize:
            merged /= divisor.add_(1 - divisor.sign().abs_())  # 1 for 0
        yield merged.mul_(scale).add_(base)


def election(deltas: Parts, weights: Sequence[float]) -> tuple[list[Tensor], Tensor, Tensor]:
    """Where every δ_i has the elected sign (1, else 0), and over these Σ w_i δ_i and Σ w_i."""
    majority, sizes = agreement([delta * weight for delta, weight in zip(deltas, weights, strict=True)])
    merged = plain_sum(sizes).mul_(majority)
    agreeing = [size.sign_() for size in sizes]
    return agreeing, merged, weighted_sum(agreeing, weights)


def agreement(vectors: Parts) -> tuple[Tensor, list[Tensor]]:
    """The sign of Σ v_i, 1 or −1, and the magnitude of every v_i where it has this sign, else 0.

    The vectors are overwritten. In arithmetic alone: masks of torch are several times slower.
    """
    majority = torch.copysign(torch.ones(()), plain_sum(vectors))  # of no −0, unless all are 0
    return majority, [vector.mul_(majority).clamp_min_(0) for vector in vectors]
