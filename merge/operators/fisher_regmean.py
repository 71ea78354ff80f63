"""Averages weighted by statistics of the models on text: Fisher merging and RegMean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .blocks import RowBlocks, plain_sum
from .linear import linear


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
    whole = [torch.cat(list(parts)) for parts in zip(*blocks, strict=True)]
    weighted = [w * _shrunk(gram, shrink) for w, gram in zip(weights, grams, strict=True)]
    maps = [weight.movedim(axis, 0).double() for weight in whole]
    answers = plain_sum([gram @ weight for gram, weight in zip(weighted, maps, strict=True)])
    solved = torch.linalg.solve(plain_sum(weighted), answers)
    yield solved.movedim(0, axis).to(whole[0].dtype)


def _shrunk(gram: Tensor, shrink: float) -> Tensor:
    """A Gram matrix with smaller entries off the diagonal, and a diagonal that is not zero."""
    diagonal = gram.diagonal()
    return shrink * gram + torch.diag((1 - shrink) * diagonal + 1e-8 * diagonal.mean() + 1e-30)
