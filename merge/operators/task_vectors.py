"""Task arithmetic, TIES and DARE: sums of task vectors δ_i = θ_i − θ_base, thinned or not, with a consensus or not.

In all of them `blocks` are float32, the base first; every model has a weight w_i and, where entries are dropped, a
density: the share of its δ_i that is kept. `scale` (λ) multiplies what is added to the base; `normalize` divides it by
the weights that went into it. `rescale` multiplies what was kept of a tensor so that Σ |δ_i| is as before: DARE's
1 / density without its sampling noise. A tensor of positive density keeps at least one entry where magnitude decides.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from isthmus.merge.operators.blocks import Blocks, Each, Parts, task_vectors, weighted_sum
from isthmus.merge.operators.magnitude import cuts

NOTHING = 1e-8
SMALLEST_SUM = 1e-7


def task_arithmetic(
    blocks: Blocks, *, weights: Sequence[float], scale: float = 1.0, normalize: bool = False
) -> Iterator[Tensor]:
    """θ_base + λ Σ w_i δ_i (Ilharco et al. 2023, arXiv 2212.04089)."""
    return _summed(blocks, task_vectors(blocks), weights, scale, normalize)


def ties(
    blocks: Blocks,
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
    thinned = _rescaled(blocks, _Largest(blocks, densities), rescale)
    return _elected(blocks, thinned, weights, scale, normalize)


def dare_linear(
    blocks: Blocks,
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
    thinned = _rescaled(blocks, _Drawn(blocks, densities, key), rescale)
    return _summed(blocks, thinned, weights, scale, normalize)


def dare_ties(
    blocks: Blocks,
    *,
    weights: Sequence[float],
    densities: Sequence[float],
    key: str,
    scale: float = 1.0,
    normalize: bool = False,
    rescale: bool = True,
) -> Iterator[Tensor]:
    """Drop and rescale as in `dare_linear`, then elect signs and merge as in `ties`."""
    thinned = _rescaled(blocks, _Drawn(blocks, densities, key), rescale)
    return _elected(blocks, thinned, weights, scale, normalize)


class _Largest:
    """Task vectors of which the entries of largest magnitude are kept, the others zero."""

    def __init__(self, blocks: Blocks, densities: Sequence[float]):
        self._deltas, self._densities = task_vectors(blocks), densities
        items = sum(parts[0].numel() for parts in blocks)
        counts = [max(1, int(density * items)) for density in densities]
        self._thin = [i for i, density in enumerate(densities) if 0 < density < 1]
        chosen = Each(self._deltas, lambda parts: [parts[i] for i in self._thin])
        found = cuts(chosen, [counts[i] for i in self._thin]) if self._thin else []
        self._cuts = dict(zip(self._thin, found, strict=True))

    def __iter__(self) -> Iterator[Parts]:
        tied = dict.fromkeys(self._thin, 0)
        for parts in self._deltas:
            kept = []
            for i, (part, density) in enumerate(zip(parts, self._densities, strict=True)):
                if i in self._cuts:
                    mask, tied[i] = self._cuts[i].mask(part, tied[i])
                    part = part * mask
                kept.append(part if density > 0 else torch.zeros_like(part))
            yield kept


class _Drawn:
    """Task vectors of which every entry is kept with a probability, the others zero; the same whenever gone through."""

    def __init__(self, blocks: Blocks, densities: Sequence[float], key: str):
        self._deltas, self._densities = task_vectors(blocks), densities
        self._seeds = [zlib.crc32(f"{key}/{i}".encode()) for i in range(len(densities))]

    def __iter__(self) -> Iterator[Parts]:
        draws = [np.random.default_rng(seed) for seed in self._seeds]
        for parts in self._deltas:
            kept = []
            for part, density, draw in zip(parts, self._densities, draws, strict=True):
                if density < 1:
                    part = part * (torch.from_numpy(draw.random(part.shape, dtype=np.float32)) < density)
                kept.append(part)
            yield kept


def _rescaled(blocks: Blocks, thinned: Blocks, rescale: bool) -> Blocks:
    """Thinned task vectors with the Σ |δ| of the whole ones, tensor by tensor."""
    if not rescale:
        return thinned
    before, after = (_absolute_sums(vectors) for vectors in (task_vectors(blocks), thinned))
    tiny = (before < SMALLEST_SUM) | (after < SMALLEST_SUM)
    factors = torch.where(tiny, 1.0, before / torch.where(tiny, 1.0, after)).tolist()
    return Each(thinned, lambda parts: [part * factor for part, factor in zip(parts, factors, strict=True)])


def _absolute_sums(vectors: Blocks) -> Tensor:
    rows = [torch.stack([part.abs().sum(dtype=torch.float64) for part in parts]) for parts in vectors]
    return torch.stack(rows).sum(0)


def _summed(
    blocks: Blocks, vectors: Blocks, weights: Sequence[float], scale: float, normalize: bool
) -> Iterator[Tensor]:
    """θ_base + λ Σ w_i δ_i, over Σ w_i with `normalize`."""
    total = sum(weights)
    factor = scale / total if normalize and abs(total) >= NOTHING else scale
    for parts, deltas in zip(blocks, vectors, strict=True):
        yield parts[0] + weighted_sum(deltas, [factor * weight for weight in weights])


def _elected(
    blocks: Blocks, vectors: Blocks, weights: Sequence[float], scale: float, normalize: bool
) -> Iterator[Tensor]:
    """θ_base + λ Σ w_i δ_i over entries of the sign of Σ w_i δ_i, over the Σ w_i of these with `normalize`."""
    for parts, deltas in zip(blocks, vectors, strict=True):
        weighted = [delta * weight for delta, weight in zip(deltas, weights, strict=True)]
        positive = weighted_sum(weighted, [1.0] * len(weighted)) >= 0
        merged, divisor = torch.zeros_like(parts[0]), torch.zeros_like(parts[0])
        for vector, weight in zip(weighted, weights, strict=True):
            agrees = torch.where(positive, vector > 0, vector < 0)
            merged += vector * agrees
            divisor += weight * agrees
        if normalize:
            merged /= torch.where(divisor == 0, 1.0, divisor)
        yield parts[0] + scale * merged
