"""Averages of N tensors: weighted, with a base, and with statistics of the models on text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .blocks import Parts, RowBlocks, gram, plain_sum, task_vectors, weighted_sum

SMALLEST = 1e-6


def linear(blocks: RowBlocks, *, weights: Sequence[float], normalize: bool = True) -> Iterator[Tensor]:
    """Σ w_i θ_i, over Σ w_i with `normalize`: a model soup (Wortsman et al. 2022, arXiv 2203.05482).

    `blocks` are float32, one part a model; the result has their shapes. With `normalize`, weights that sum to 0 give
    NaN (`isthmus.merge.operators.registry.Operator.require_values` refuses them).
    """
    total = sum(weights) if normalize else 1.0
    shares = [weight / total if total else float("nan") for weight in weights]
    for parts in blocks:
        yield weighted_sum(parts, shares)


def passthrough(blocks: RowBlocks, *, factors: Sequence[float]) -> Iterator[Tensor]:
    """s θ of a single model, which for s = 1 is as it was.

    A factor of 0 on what a layer writes to the residual stream makes a layer that was added do nothing at first.
    """
    for parts in blocks:
        yield parts[0] if factors[0] == 1 else parts[0] * factors[0]


def model_stock(blocks: RowBlocks, *, by_row: bool = False) -> Iterator[Tensor]:
    """τ mean_i θ_i + (1 − τ) θ_base with τ = N c / (1 + (N − 1) c), c the mean cosine between task vectors (Jang et al.
    2024, arXiv 2403.19522).

    `blocks` are float32, the base first, then N ≥ 2 models. One c for the tensor, or with `by_row` one for every row
    (a vector is one row). Where the denominator vanishes, the base stays.
    """
    one_row = not by_row or next(iter(blocks))[0].ndim == 1
    whole = _ratio(gram(task_vectors(blocks))) if one_row else None
    for parts in blocks:
        ratio = _ratio_by_row(parts) if whole is None else whole
        mean = weighted_sum(parts[1:], [1 / (len(parts) - 1)] * (len(parts) - 1))
        yield torch.lerp(parts[0], mean, ratio.to(mean.dtype))


def _ratio(products: Tensor) -> Tensor:
    """τ from the inner products of task vectors, (..., N, N)."""
    count = products.shape[-1]
    lengths = products.diagonal(dim1=-2, dim2=-1).sqrt()
    scale = (lengths[..., :, None] * lengths[..., None, :]).clamp_min(SMALLEST)
    upper = torch.triu_indices(count, count, offset=1)
    cosine = (products / scale).clamp(-1, 1)[..., upper[0], upper[1]].mean(-1)
    denominator = 1 + (count - 1) * cosine
    singular = denominator.abs() < SMALLEST
    return torch.where(singular, 0.0, count * cosine / torch.where(singular, 1.0, denominator))


def _ratio_by_row(parts: Parts) -> Tensor:
    rows = torch.stack([part - parts[0] for part in parts[1:]], dim=1).flatten(2).double()  # (rows, N, items)
    ratios = _ratio(rows @ rows.mT)
    return ratios.reshape(-1, *[1] * (parts[0].ndim - 1))


def fisher(blocks: RowBlocks, *, weights: Sequence[float], floor: float = 1e-6) -> Iterator[Tensor]:
    """Σ w_i F_i θ_i / Σ w_i F_i, entry by entry (Matena & Raffel 2022, arXiv 2111.09832).

    Every block has the N models' rows, float32, and then those of the diagonals F_i of their Fisher information
    (`isthmus.merge.operators.statistics.fisher_diagonal`), to which `floor` is added.
    """
    count = len(weights)
    for parts in blocks:
        informed = [w * (information + floor) for w, information in zip(weights, parts[count:], strict=True)]
        yield plain_sum([f * x for f, x in zip(informed, parts[:count], strict=True)]) / plain_sum(informed)


def regmean(
    blocks: RowBlocks, *, weights: Sequence[float], grams: Sequence[Tensor] | None, axis: int = 0, shrink: float = 0.9
) -> Iterator[Tensor]:
    """W = (Σ w_i G_i)⁻¹ Σ w_i G_i W_i: the linear map whose outputs are closest to those of all W_i on their own inputs
    (Jin et al. 2023, arXiv 2212.09849).

    `grams` are G_i = X_iᵀ X_i / tokens, (inputs, inputs) float64, of the inputs that lie along `axis` of the weight;
    their entries off the diagonal are multiplied by `shrink`. Without them, as for what is not a linear map of hidden
    inputs, the weighted average. Solved in float64, of whole tensors.
    """
    if grams is None:
        yield from linear(blocks, weights=weights)
        return
    solved = regmean_map(blocks, weights, grams, axis, shrink)[-1]
    yield solved.movedim(0, axis).float()


def regmean_map(
    blocks: RowBlocks, weights: Sequence[float], grams: Sequence[Tensor], axis: int, shrink: float
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """The maps W_i with their inputs along the first axis, the shrunk G_i, Σ w_i G_i and W, all in float64."""
    whole = [torch.cat(list(parts)) for parts in zip(*blocks, strict=True)]
    moments = [_shrunk(gram, shrink) for gram in grams]
    maps = [weight.movedim(axis, 0).double() for weight in whole]
    weighted = [weight * moment for weight, moment in zip(weights, moments, strict=True)]
    total = plain_sum(weighted)
    answers = plain_sum([moment @ weight for moment, weight in zip(weighted, maps, strict=True)])
    return maps, moments, total, torch.linalg.solve(total, answers)


def _shrunk(gram: Tensor, shrink: float) -> Tensor:
    diagonal = gram.diagonal()
    return shrink * gram + torch.diag((1 - shrink) * diagonal + 1e-8 * diagonal.mean() + 1e-30)
