"""Task arithmetic, TIES and DARE: sums of (sparsified) task vectors δ_i = θ_i − θ_base, with or without elected signs.

In all of them `blocks` are float32, the base first; every model has a weight w_i and, where entries are dropped, a
density: the share of the entries of δ_i that are kept. `scale` (λ) multiplies the sum that is added to the base;
`normalize` divides it by the weights that went into it. `rescale` multiplies the entries that are kept so that Σ |δ_i|
is as before: DARE's 1 / density without its sampling noise. Where magnitude decides, a tensor of positive density keeps
at least one entry.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from .bernoulli import BernoulliMasks
from .blocks import MappedBlocks, Parts, RowBlocks, plain_sum, weighted_sum
from .magnitude import cuts

NOTHING = 1e-8
SMALLEST_SUM = 1e-7


def task_arithmetic(
    blocks: RowBlocks, *, weights: Sequence[float], scale: float = 1.0, normalize: bool = False
) -> Iterator[Tensor]:
    """θ_base + λ Σ w_i δ_i (Ilharco et al. 2023, arXiv 2212.04089)."""
    deltas = MappedBlocks(blocks, lambda parts: [parts[0], *(part - parts[0] for part in parts[1:])])
    return _summed(deltas, weights, scale, normalize)


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
    return _elected(_LargestEntries(blocks, densities, rescale=rescale), weights, scale, normalize)


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
    return _summed(_RandomEntries(blocks, densities, key, rescale=rescale), weights, scale, normalize)


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
    return _elected(_RandomEntries(blocks, densities, key, rescale=rescale), weights, scale, normalize)


class _Sparsified(ABC):
    """The base and the task vectors (δ_1, …, δ_N), some of their entries set to zero; the same in every iteration.

    With `rescale` the entries that are kept are multiplied so that Σ |δ_i| of a tensor does not change.
    """

    def __init__(self, blocks: RowBlocks, densities: Sequence[float], *, rescale: bool):
        self._blocks, self._densities = blocks, densities
        self._factors = self._rescaling() if rescale and min(densities) < 1 else [1.0] * len(densities)

    @abstractmethod
    def masks(self, blocks: Iterable[Parts]) -> Iterator[tuple[Tensor, list[Tensor], list[Tensor | None]]]:
        """The base, the task vectors and masks of the entries that are kept (None: all), block by block."""

    def __iter__(self) -> Iterator[Parts]:
        for base, deltas, masks in self.masks(self._blocks):
            sparse = []
            for delta, mask, factor in zip(deltas, masks, self._factors, strict=True):
                sparse.append(delta if mask is None else delta.mul_(mask))
                if factor != 1:
                    sparse[-1] *= factor
            yield [base, *sparse]

    def _rescaling(self) -> list[float]:
        """Σ |δ_i| over all entries, divided by the sum over those that are kept."""
        before, after = [0.0] * len(self._densities), [0.0] * len(self._densities)
        for _, deltas, masks in self.masks(self._blocks):
            for i, (delta, mask) in enumerate(zip(deltas, masks, strict=True)):
                delta = delta.abs_()
                before[i] += float(delta.sum())
                after[i] += float((delta if mask is None else delta.mul_(mask)).sum())
        return [
            1.0 if min(whole, part) < SMALLEST_SUM else whole / part for whole, part in zip(before, after, strict=True)
        ]


class _LargestEntries(_Sparsified):
    """Keeps the entries of largest magnitude: of every tensor the share that is its density."""

    def __init__(self, blocks: RowBlocks, densities: Sequence[float], *, rescale: bool):
        self._thin = [i for i, density in enumerate(densities) if 0 < density < 1]
        chosen = MappedBlocks(blocks, lambda parts: [parts[i + 1] - parts[0] for i in self._thin])
        thresholds = cuts(chosen, [densities[i] for i in self._thin]) if self._thin else []
        self._cuts = dict(zip(self._thin, thresholds, strict=True))
        super().__init__(blocks, densities, rescale=rescale)

    def masks(self, blocks: Iterable[Parts]) -> Iterator[tuple[Tensor, list[Tensor], list[Tensor | None]]]:
        tied = dict.fromkeys(self._thin, 0)
        for base, *models in blocks:
            deltas, masks = [model - base for model in models], []
            for i, (delta, density) in enumerate(zip(deltas, self._densities, strict=True)):
                mask = None if density >= 1 else torch.zeros_like(delta, dtype=torch.bool)
                if i in self._cuts:
                    mask, tied[i] = self._cuts[i].mask(delta, tied[i])
                masks.append(mask)
            yield base, deltas, masks


class _RandomEntries(_Sparsified):
    """Keeps every entry with a probability, the density."""

    def __init__(self, blocks: RowBlocks, densities: Sequence[float], key: str, *, rescale: bool):
        self._seeds = [zlib.crc32(f"{key}/{i}".encode()) for i in range(len(densities))]
        super().__init__(blocks, densities, rescale=rescale)

    def masks(self, blocks: Iterable[Parts]) -> Iterator[tuple[Tensor, list[Tensor], list[Tensor | None]]]:
        draws = [BernoulliMasks(density, seed) for density, seed in zip(self._densities, self._seeds, strict=True)]
        for base, *models in blocks:
            deltas = [model - base for model in models]
            yield base, deltas, [masks.draw(base.shape) for masks in draws]


def _summed(vectors: RowBlocks, weights: Sequence[float], scale: float, normalize: bool) -> Iterator[Tensor]:
    """θ_base + λ Σ w_i δ_i, over Σ w_i with `normalize`."""
    total = sum(weights)
    factor = scale / total if normalize and abs(total) >= NOTHING else scale
    for base, *deltas in vectors:
        yield weighted_sum(deltas, [factor * weight for weight in weights]).add_(base)


def _elected(vectors: RowBlocks, weights: Sequence[float], scale: float, normalize: bool) -> Iterator[Tensor]:
    """θ_base + λ Σ w_i δ_i over entries of the sign of Σ w_i δ_i, over the Σ w_i of these with `normalize`."""
    for base, *deltas in vectors:
        weighted = [delta * weight for delta, weight in zip(deltas, weights, strict=True)]
        majority = (plain_sum(weighted) >= 0).float() * 2 - 1
        merged, divisor = torch.zeros_like(base), torch.zeros_like(base)
        for vector, weight in zip(weighted, weights, strict=True):
            agrees = (vector * majority > 0).float()
            merged.addcmul_(vector, agrees)
            divisor.add_(agrees, alpha=weight)
        if normalize:
            merged /= divisor.masked_fill_(divisor == 0, 1.0)
        yield merged.mul_(scale).add_(base)
