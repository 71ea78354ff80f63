"""Model Stock."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .blocks import Parts, RowBlocks, gram, task_vectors, weighted_sum

SMALLEST = 1e-6


def model_stock(blocks: RowBlocks, *, by_row: bool = False) -> Iterator[Tensor]:
    """τ mean_i θ_i + (1 − τ) θ_base with τ = N c / (1 + (N − 1) c), c the mean cosine between task vectors (Jang et al.
    2024, arXiv 2403.19522).

    `blocks` are float32, the base first, then N ≥ 2 models. One c for the tensor, or with `by_row` one for every row
    (a vector is one row). Where the denominator vanishes, the base stays.
    """
    one_row = not by_row or next(iter(blocks))[0].ndim == 1
    whole = _ratio(gram(task_vectors(blocks))) if one_row else None
    for parts in blocks:
        ratio = _by_row(parts) if whole is None else whole
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


def _by_row(parts: Parts) -> Tensor:
    rows = torch.stack([part - parts[0] for part in parts[1:]], dim=1).flatten(2).double()  # (rows, N, items)
    ratios = _ratio(rows @ rows.mT)
    return ratios.reshape(-1, *[1] * (parts[0].ndim - 1))
