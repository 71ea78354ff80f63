"""Operators that take entries of some models, by how these differ from their base, and leave out the others.

In all of them `blocks` are float32, the base first; δ_i = θ_i − θ_base.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .blocks import MappedBlocks, Parts, RowBlocks, WholeVectors, plain_sum, task_vectors
from .masks import Cut, cuts

SMALLEST = 1e-6  # sum of the mean squares below which all task vectors weigh alike, as in mergekit
FLOOR = 1e-8  # of probabilities
QUARTILES = (0.25, 0.5, 0.75)


def sce(blocks: RowBlocks, *, share: float = 1.0) -> Iterator[Tensor]:
    """Select, calculate, erase (Wan et al. 2024, arXiv 2408.07990): θ_base + Σ w_i m_i δ_i / Σ w_i m_i.

    Of the entries in which the task vectors differ at all, the `share` with the largest variance over them is kept; the
    weights w_i are the mean squares of what is kept of every δ_i, over their sum; m_i is 1 where δ_i has the sign of
    Σ δ_i, else 0. Where the mean squares sum to less than 1e-6, all weights are equal, as in mergekit.
    """
    cut = _variance_cut(blocks, share) if 0 < share < 1 else None

    def kept() -> Iterator[Parts]:
        tied = 0
        for base, *models in blocks:
            deltas = [model - base for model in models]
            if cut is not None:
                mask, tied = cut.mask(_variance(deltas), tied)
                deltas = [delta.mul_(mask) for delta in deltas]
            elif share <= 0:
                deltas = [torch.zeros_like(delta) for delta in deltas]
            yield [base, *deltas]

    squares, entries = torch.zeros(()).double(), 0
    for base, *deltas in kept():
        squares = squares + torch.stack([delta.double().square().sum() for delta in deltas])
        entries += base.numel()
    means = squares / entries
    total = float(means.sum())
    weights = (means / total if total >= SMALLEST else torch.full_like(means, 1 / len(means))).tolist()
    for base, *deltas in kept():
        majority = (plain_sum(deltas) >= 0).float() * 2 - 1
        merged, divisor = torch.zeros_like(base), torch.zeros_like(base)
        for delta, weight in zip(deltas, weights, strict=True):
            agrees = (delta.sign() == majority).float()
            merged.addcmul_(delta, agrees, value=weight)
            divisor.add_(agrees, alpha=weight)
        yield merged.div_(divisor.clamp_min_(SMALLEST)).add_(base)


def _variance(deltas: Parts) -> Tensor:
    return torch.var(torch.stack(list(deltas)), dim=0, unbiased=False)


def _variance_cut(blocks: RowBlocks, share: float) -> Cut:
    variances = MappedBlocks(task_vectors(blocks), lambda deltas: [_variance(deltas)])
    differing = sum(int(torch.count_nonzero(variance)) for (variance,) in variances)
    return cuts(variances, [lambda entries: int(differing * share)])[0]


def ram(blocks: RowBlocks, *, threshold: float = 1e-5) -> Iterator[Tensor]:
    """θ_base + Σ δ_i / n over the n models that changed an entry, by more than `threshold`: reinforced agent merging
    (arXiv 2601.13572). What one model alone changed is kept whole, what several did is averaged over these.
    """
    return _reinforced(blocks, threshold, None)


def ramplus_tl(
    blocks: RowBlocks, *, rate: float = 0.1, limit: float = 0.2, threshold: float = 1e-5
) -> Iterator[Tensor]:
    """As `ram`, and what a model alone changed is multiplied by 1 + r · min(ρ_i, α): `rate` r, `limit` α, and ρ_i the
    entries of the tensor that it changed with others over those that it changed alone (arXiv 2601.13572).
    """
    shared = alone = torch.zeros(())
    for deltas in task_vectors(blocks):
        changed = torch.stack([delta.abs() > threshold for delta in deltas]).flatten(1)
        several = changed.sum(0) > 1
        shared = shared + (changed & several).sum(1).double()
        alone = alone + (changed & ~several).sum(1).double()
    ratios = shared / alone.clamp_min(threshold)
    factors = 1 + rate * ratios.clamp(0, limit)
    return _reinforced(blocks, threshold, factors.tolist())


def _reinforced(blocks: RowBlocks, threshold: float, factors: list[float] | None) -> Iterator[Tensor]:
    for base, *models in blocks:
        deltas = [model - base for model in models]
        changed = [delta.abs() > threshold for delta in deltas]
        count = torch.zeros_like(base)
        for mask in changed:
            count += mask
        alone, shares = count == 1, count.clamp_min(1).reciprocal_()
        merged = torch.zeros_like(base)
        for place, (delta, mask) in enumerate(zip(deltas, changed, strict=True)):
            part = delta.mul_(mask).mul_(shares)
            merged += part if factors is None else torch.where(alone, part * factors[place], part)
        yield merged.add_(base)


def nearswap(blocks: RowBlocks, *, t: float) -> Iterator[Tensor]:
    """(1 − s) θ_base + s θ, with s = min(1, t / |θ − θ_base|) entry by entry: entries closer than `t` are the model's,
    and the others move towards it by t (alchemonaut 2024, as in mergekit).
    """
    for base, model in blocks:
        share = (t / (base - model).abs_().clamp_min_(SMALLEST)).clamp_(0, 1)
        yield share * model + (1 - share) * base


def arcee_fusion(blocks: RowBlocks) -> Iterator[Tensor]:
    """θ_base + δ where that matters most, as in mergekit's Arcee Fusion: in entries whose importance |δ| · KL is at
    least median + 1.5 · (third − first quartile) of the tensor's.

    KL is the divergence of the softmax of a row (along the last axis; a vector is one row) from that of the base's. The
    quartiles are exact; mergekit estimates those of more than a million entries from a sample.
    """
    blocks = WholeVectors(blocks)
    importance = torch.cat([_importance(*parts).flatten() for parts in blocks])
    first, median, third = (
        importance.kthvalue(int(quartile * (len(importance) - 1)) + 1).values for quartile in QUARTILES
    )
    threshold = median + 1.5 * (third - first)
    for base, model in blocks:
        taken = _importance(base, model) >= threshold
        yield torch.where(taken, base + (model - base), base)


def _importance(base: Tensor, model: Tensor) -> Tensor:
    p, q = (torch.softmax(rows, -1).add_(FLOOR) for rows in (model, base))
    divergence = (p * (p / q).log_()).sum(-1, keepdim=True)
    return (model - base).abs_().mul_(divergence)
