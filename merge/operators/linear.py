"""Weighted averages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from .blocks import RowBlocks, weighted_sum


def linear(blocks: RowBlocks, *, weights: Sequence[float], normalize: bool = True) -> Iterator[Tensor]:
    """Σ w_i θ_i, over Σ w_i with `normalize`: a model soup (Wortsman et al. 2022, arXiv 2203.05482).

    `blocks` are float32, one part a model; the result has their shapes. With `normalize`, weights that sum to 0 give
    NaN (`isthmus.merge.operators.registry.Operator.require_weights` refuses them).
    """
    total = sum(weights) if normalize else 1.0
    shares = [weight / total if total else float("nan") for weight in weights]
    for parts in blocks:
        yield weighted_sum(parts, shares)
