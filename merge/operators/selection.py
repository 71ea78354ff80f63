"""Operators that take entries of some models, by how these differ from their base, and leave out the others.

In all of them `blocks` are float32, the base first; δ_i = θ_i − θ_base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from .blocks import (
    GeneratedBlocks,
    MappedBlocks,
    Parts,
    RowBlocks,
    WholeVectors,
    dot,
    plain_sum,
    task_vectors,
    weighted_sum,
)
from .masks import Cut, Masks, RepeatedMasks, cuts, in_order, keep
from .task_vectors import agreement

SMALLEST = 1e-6  # sum of the mean squares below which all task vectors weigh alike, as in mergekit
FLOOR = 1e-8  # of probabilities
QUARTILES = (0.25, 0.5, 0.75)


def sce(blocks: RowBlocks, *, share: float = 1.0) -> Iterator[Tensor]:
    """Select, calculate, erase (Wan et al. 2024, arXiv 2408.07990): θ_base + Σ w_i m_i δ_i / Σ w_i m_i.

    Of the entries in which the task vectors differ at all, the `share` with the largest variance over them is kept; the
    weights w_i are the mean squares of what is kept of every δ_i, over their sum; m_i is 1 where δ_i has the sign of
    Σ δ_i, else 0. Where the mean squares sum to less than 1e-6, all weights are equal, as in mergekit.
    """
    masks = RepeatedMasks(_masker(_variance_cut(blocks, share)) if 0 < share < 1 else _all_or_none(share))

    def kept(masks: Masks) -> Iterator[Parts]:
        for base, *models in blocks:
            deltas = [model - base for model in models]
            (mask,) = masks(deltas)
            yield [base, *(delta if mask is None else keep(delta, mask) for delta in deltas)]

    squares, entries = np.zeros(1), 0
    for base, *deltas in kept(masks.first()):
        squares = squares + [dot(delta, delta) for delta in deltas]
        entries += base.numel()
    means = squares / entries
    total = float(means.sum())
    weights = (means / total if total >= SMALLEST else np.full_like(means, 1 / len(means))).tolist()
    for base, *deltas in kept(masks.again()):
        majority, sizes = agreement(deltas)
        merged = weighted_sum(sizes, weights).mul_(majority)
        divisor = weighted_sum([size.sign_() for size in sizes], weights)
        yield merged.div_(divisor.clamp_min_(SMALLEST)).add_(base)


def _masker(cut: Cut) -> Callable[[], Masks]:
    """One mask for all task vectors, of their variance."""

    def masker() -> Masks:
        tied = 0

        def masks(deltas: list[Tensor]) -> list[Tensor | None]:
            nonlocal tied
            mask, tied = cut.mask(_variance(deltas), tied)
            return [mask]

        return masks

    return masker


def _all_or_none(share: float) -> Callable[[], Masks]:
    return lambda: lambda deltas: [None if share > 0 else torch.zeros_like(deltas[0], dtype=torch.bool)]


def _variance(deltas: Parts) -> Tensor:
    """Σ (δ_i − mean)² / N, exactly 0 where all are equal: by their differences to the first."""
    squares = torch.zeros_like(deltas[0])
    differences = [delta - deltas[0] for delta in deltas[1:]]
    for difference in differences:
        squares.addcmul_(difference, difference)
    total = plain_sum(differences) if differences else squares
    squares.addcmul_(total, total, value=-1 / len(deltas))
    return squares.div_(len(deltas))


def _variance_cut(blocks: RowBlocks, share: float) -> Cut:
    variances = MappedBlocks(task_vectors(blocks), lambda deltas: [_variance(deltas)])
    ((cut,),) = cuts(variances, [[lambda _, differing: int(differing * share)]])
    return cut


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
    changes = alone = torch.zeros(1, dtype=torch.float64)
    for deltas in task_vectors(blocks):
        changed = [_changed(delta, threshold).sign_().abs_() for delta in deltas]
        single = _single(plain_sum(changed))
        changes = changes + torch.tensor([dot(own, own) for own in changed], dtype=torch.float64)
        alone = alone + torch.tensor([dot(own, single) for own in changed], dtype=torch.float64)
    ratios = ((changes - alone) / alone.clamp_min(threshold)).nan_to_num_(0)  # of one that changed nothing
    return _reinforced(blocks, threshold, (rate * ratios.clamp(0, limit)).tolist())


def _reinforced(blocks: RowBlocks, threshold: float, extra: list[float] | None) -> Iterator[Tensor]:
    """The mean over the models that changed an entry, and `extra` times what one alone changed."""
    for base, *models in blocks:
        deltas = [_changed(model - base, threshold) for model in models]
        merged = plain_sum(deltas)
        more = None if extra is None else weighted_sum(deltas, extra)
        count = plain_sum([delta.sign_().abs_() for delta in deltas])
        if more is not None:
            more.mul_(_single(count))
        merged.div_(count.clamp_min_(1))
        yield (merged if more is None else merged.add_(more)).add_(base)


def _changed(delta: Tensor, threshold: float) -> Tensor:
    """The entries whose magnitude is above the threshold, else 0."""
    return torch.nn.functional.hardshrink(delta, threshold)


def _single(count: Tensor) -> Tensor:
    """1 where a count is 1, 0 where it is more (2 where it is 0)."""
    return (2 - count).clamp_min_(0)


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
    divergences = [_divergence(*parts) for parts in blocks]  # a number a row

    def important() -> Iterator[Parts]:
        for (base, model), divergence in zip(blocks, divergences, strict=True):
            yield [(model - base).abs_().mul_(divergence)]

    (quartiles,) = cuts(GeneratedBlocks(important), [[partial(_from_below, share) for share in QUARTILES]], in_order)
    first, median, third = torch.tensor([cut.value for cut in quartiles])
    threshold = median + 1.5 * (third - first)
    for (base, model), (importance,) in zip(blocks, important(), strict=True):
        yield keep(model - base, importance >= threshold).add_(base)


def _from_below(share: float, entries: int, _: int) -> int:
    """How many entries are not below the quantile of a share."""
    return entries - int(share * (entries - 1))


def _divergence(base: Tensor, model: Tensor) -> Tensor:
    p, q = (torch.softmax(rows, -1).add_(FLOOR) for rows in (model, base))
    return (p / q).log_().mul_(p).sum(-1, keepdim=True)
