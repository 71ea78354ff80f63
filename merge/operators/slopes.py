"""The slopes of operators: ∂θ/∂w_i of the merged tensor θ with respect to the weight of every model, block by block.

Every function takes what the operator of its name takes (`isthmus.merge.operators.averages` and the modules beside it),
and yields for every block of rows the N derivatives, of its shape, float32. Which entries are kept and which signs are
elected is held fixed: where a small step of a weight changes neither, the derivatives are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from .averages import regmean_map
from .blocks import Parts, RowBlocks, gram, plain_sum, weighted_sum
from .pruning import kept_by_rank, without_extremes
from .sphere import slerp_angle
from .task_vectors import NOTHING, election, kept_at_random, kept_largest, task_vectors_beside_base

Slopes = Iterator[list[Tensor]]


def linear(blocks: RowBlocks, *, weights: Sequence[float], normalize: bool = True) -> Slopes:
    """(θ_i − θ) / Σ w_j with `normalize`, else θ_i."""
    total = sum(weights)
    for parts in blocks:
        if normalize:
            merged = weighted_sum(parts, [weight / total for weight in weights])
            yield [(part - merged) / total for part in parts]
        else:
            yield list(parts)


def slerp(blocks: RowBlocks, *, t: float) -> Slopes:
    """0 for the first model and ∂θ/∂t for the second, whose weight t is."""
    angle = slerp_angle(gram(blocks))
    rates = (-1.0, 1.0)
    if angle is not None:
        rates = (
            -angle * math.cos((1 - t) * angle) / math.sin(angle),
            angle * math.cos(t * angle) / math.sin(angle),
        )
    for parts in blocks:
        yield [torch.zeros_like(parts[0]), weighted_sum(parts, rates)]


def fisher(blocks: RowBlocks, *, weights: Sequence[float], floor: float = 1e-6) -> Slopes:
    """(F_i + floor) (θ_i − θ) / Σ w_j (F_j + floor)."""
    count = len(weights)
    for parts in blocks:
        precise = [information + floor for information in parts[count:]]
        informed = [weight * information for weight, information in zip(weights, precise, strict=True)]
        total = plain_sum(informed)
        merged = plain_sum([f * x for f, x in zip(informed, parts[:count], strict=True)]) / total
        yield [f * (x - merged) / total for f, x in zip(precise, parts[:count], strict=True)]


def regmean(
    blocks: RowBlocks, *, weights: Sequence[float], grams: Sequence[Tensor] | None, axis: int = 0, shrink: float = 0.9
) -> Slopes:
    """(Σ w_j G_j)⁻¹ G_i (W_i − W); without `grams` as `linear`. Of whole tensors."""
    if grams is None:
        yield from linear(blocks, weights=weights)
        return
    maps, moments, total, merged = regmean_map(blocks, weights, grams, axis, shrink)
    pulls = [moment @ (own - merged) for moment, own in zip(moments, maps, strict=True)]
    yield [torch.linalg.solve(total, pull).movedim(0, axis).float() for pull in pulls]


def task_arithmetic(
    blocks: RowBlocks, *, weights: Sequence[float], scale: float = 1.0, normalize: bool = False
) -> Slopes:
    """λ δ_i, or λ (δ_i − Σ w_j δ_j / Σ w_j) / Σ w_j with `normalize`."""
    return _summed(task_vectors_beside_base(blocks), weights, scale, normalize)


def ties(
    blocks: RowBlocks,
    *,
    weights: Sequence[float],
    densities: Sequence[float],
    scale: float = 1.0,
    normalize: bool = True,
    rescale: bool = False,
) -> Slopes:
    """λ a_i δ_i, or λ a_i (δ_i − m) / Σ a_j w_j with `normalize`: a_i is 1 where δ_i has the elected sign, else 0, and
    m the average of those that have it.
    """
    return _elected(kept_largest(blocks, densities, rescale=rescale), weights, scale, normalize)


def dare_linear(
    blocks: RowBlocks,
    *,
    weights: Sequence[float],
    densities: Sequence[float],
    key: str,
    scale: float = 1.0,
    normalize: bool = False,
    rescale: bool = True,
) -> Slopes:
    """As `task_arithmetic`, of the task vectors that are left."""
    return _summed(kept_at_random(blocks, densities, key, rescale=rescale), weights, scale, normalize)


def dare_ties(
    blocks: RowBlocks,
    *,
    weights: Sequence[float],
    densities: Sequence[float],
    key: str,
    scale: float = 1.0,
    normalize: bool = False,
    rescale: bool = True,
) -> Slopes:
    """As `ties`, of the task vectors that are left."""
    return _elected(kept_at_random(blocks, densities, key, rescale=rescale), weights, scale, normalize)


def breadcrumbs(
    blocks: RowBlocks,
    *,
    weights: Sequence[float],
    densities: Sequence[float],
    gammas: Sequence[float],
    scale: float = 1.0,
    normalize: bool = False,
    rescale: bool = False,
) -> Slopes:
    """As `task_arithmetic`, of the task vectors that are left."""
    return _summed(without_extremes(blocks, densities, gammas, rescale=rescale), weights, scale, normalize)


def breadcrumbs_ties(
    blocks: RowBlocks,
    *,
    weights: Sequence[float],
    densities: Sequence[float],
    gammas: Sequence[float],
    scale: float = 1.0,
    normalize: bool = False,
    rescale: bool = False,
) -> Slopes:
    """As `ties`, of the task vectors that are left."""
    return _elected(without_extremes(blocks, densities, gammas, rescale=rescale), weights, scale, normalize)


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
) -> Slopes:
    """As `task_arithmetic`, of the task vectors that are left."""
    return _summed(kept_by_rank(blocks, densities, epsilons, key, rescale=rescale), weights, scale, normalize)


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
) -> Slopes:
    """As `ties`, of the task vectors that are left."""
    return _elected(kept_by_rank(blocks, densities, epsilons, key, rescale=rescale), weights, scale, normalize)


def _summed(vectors: Iterator[Parts], weights: Sequence[float], scale: float, normalize: bool) -> Slopes:
    total = sum(weights)
    divides = normalize and abs(total) >= NOTHING
    for _, *deltas in vectors:
        if divides:
            mean = weighted_sum(deltas, [weight / total for weight in weights])
            yield [(delta - mean) * (scale / total) for delta in deltas]
        else:
            yield [delta * scale for delta in deltas]


def _elected(vectors: Iterator[Parts], weights: Sequence[float], scale: float, normalize: bool) -> Slopes:
    for _, *deltas in vectors:
        agreeing, merged, divisor = election(deltas, weights)
        if normalize:
            divisor = divisor.masked_fill(divisor == 0, 1.0)
            mean = merged / divisor
            yield [own * (delta - mean) / divisor * scale for own, delta in zip(agreeing, deltas, strict=True)]
        else:
            yield [own * delta * scale for own, delta in zip(agreeing, deltas, strict=True)]


SLOPES: Mapping[str, Callable[..., Slopes]] = {
    function.__name__: function
    for function in (
        linear,
        slerp,
        fisher,
        regmean,
        task_arithmetic,
        ties,
        dare_linear,
        dare_ties,
        breadcrumbs,
        breadcrumbs_ties,
        della_linear,
        della,
    )
}
