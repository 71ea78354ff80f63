"""The slopes of operators: ∂θ/∂w_i of the merged tensor θ with respect to the weight of every model, block by block.

Every function takes what the operator of its name takes (`isthmus.merge.operators.averages` and the modules beside it),
and yields for every block of rows the N derivatives, of its shape, float32. Which entries are kept and which signs are
elected is held fixed: where a small step of a weight changes neither, the derivatives are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .averages import regmean_map
from .blocks import Parts, RowBlocks, gram, plain_sum, weighted_sum
from .pruning import kept_by_rank, without_extremes
from .sphere import slerp_angle
from .task_vectors import NOTHING, election, kept_at_random, kept_largest, task_vectors_beside_base

Slopes = Iterator[list[Tensor]]
Kept = Callable[..., Iterator[Parts]]  # the base, and what is left of task vectors


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


def of_sums(kept: Kept) -> Callable[..., Slopes]:
    """The slopes of a sum of what is `kept` of task vectors: λ δ_i, or λ (δ_i − Σ w_j δ_j / Σ w_j) / Σ w_j with
    `normalize`.
    """

    def slopes(blocks: RowBlocks, *, weights: Sequence[float], scale: float, normalize: bool, **pruning: Any) -> Slopes:
        total = sum(weights)
        for _, *deltas in kept(blocks, **pruning):
            if normalize and abs(total) >= NOTHING:
                mean = weighted_sum(deltas, [weight / total for weight in weights])
                yield [(delta - mean) * (scale / total) for delta in deltas]
            else:
                yield [delta * scale for delta in deltas]

    return slopes


def of_elections(kept: Kept) -> Callable[..., Slopes]:
    """The same after signs were elected: λ a_i δ_i, or λ a_i (δ_i − m) / Σ a_j w_j with `normalize`: a_i is 1 where δ_i
    has the elected sign, else 0, and m the average of those that have it.
    """

    def slopes(blocks: RowBlocks, *, weights: Sequence[float], scale: float, normalize: bool, **pruning: Any) -> Slopes:
        for _, *deltas in kept(blocks, **pruning):
            agreeing, merged, divisor = election(deltas, weights)
            if normalize:
                divisor = divisor.masked_fill(divisor == 0, 1.0)
                mean = merged / divisor
                yield [own * (delta - mean) / divisor * scale for own, delta in zip(agreeing, deltas, strict=True)]
            else:
                yield [own * delta * scale for own, delta in zip(agreeing, deltas, strict=True)]

    return slopes


SLOPES: Mapping[str, Callable[..., Slopes]] = {
    "linear": linear,
    "slerp": slerp,
    "fisher": fisher,
    "regmean": regmean,
    "task_arithmetic": of_sums(task_vectors_beside_base),
    "ties": of_elections(kept_largest),
    "dare_linear": of_sums(kept_at_random),
    "dare_ties": of_elections(kept_at_random),
    "breadcrumbs": of_sums(without_extremes),
    "breadcrumbs_ties": of_elections(without_extremes),
    "della_linear": of_sums(kept_by_rank),
    "della": of_elections(kept_by_rank),
}
