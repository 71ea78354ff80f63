"""Averages on the sphere: tensors as directions with lengths."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .blocks import RowBlocks, gram, weighted_sum

PARALLEL = 0.9995
SHORTEST = 1e-8


def slerp(blocks: RowBlocks, *, t: float) -> Iterator[Tensor]:
    """[sin((1 − t) Ω) θ_A + sin(t Ω) θ_B] / sin Ω, Ω the angle between the two (Shoemake 1985).

    Of two whole tensors, `blocks` in float32. Where |cos Ω| > 0.9995, (1 − t) θ_A + t θ_B.
    """
    products = gram(blocks)
    lengths = [length if length > SHORTEST else 1.0 for length in products.diagonal().sqrt().tolist()]
    cosine = min(1.0, max(-1.0, products[0, 1].item() / (lengths[0] * lengths[1])))
    weights = (1 - t, t)
    if abs(cosine) <= PARALLEL:
        angle = math.acos(cosine)
        weights = (math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle))
    for parts in blocks:
        yield weighted_sum(parts, weights)


def karcher(blocks: RowBlocks, *, steps: int = 10, tolerance: float = 1e-5) -> Iterator[Tensor]:
    """The Karcher mean of N tensors: the direction x that minimises Σ Ω(x, θ_i)², times their mean length.

    By the fixed-point iteration x ← exp_x(mean_i log_x θ_i), at most `steps` times, until it moves by less than
    `tolerance`; of two directions it is the middle of their arc (Karcher 1977). All iterates are combinations of the
    N tensors, so that their inner products, float64, are all it works on. Tensors shorter than `tolerance` have no
    direction, and only count for the length.
    """
    products = gram(blocks)
    lengths = products.diagonal().sqrt()
    weights = lengths.mean() * _mean_direction(products, lengths, steps, tolerance)
    for parts in blocks:
        yield weighted_sum(parts, weights.tolist())


def _mean_direction(products: Tensor, lengths: Tensor, steps: int, tolerance: float) -> Tensor:
    """The Karcher mean of the directions as coefficients of the tensors."""
    long = lengths > tolerance
    coefficients = torch.zeros_like(lengths)
    if not long.any():
        return coefficients
    units = products[long][:, long] / torch.outer(lengths[long], lengths[long])
    count = units.shape[0]

    def length(x: Tensor) -> float:
        return math.sqrt(max(0.0, float(x @ units @ x)))

    mean = torch.full((count,), 1.0 / count, dtype=torch.float64)
    mean = mean / length(mean) if length(mean) >= tolerance else torch.eye(count, dtype=torch.float64)[0]
    for _ in range(steps):
        cosines = (units @ mean).clamp(-1, 1)
        angles = cosines.acos()
        pulls = torch.where(angles < tolerance, 0.0, angles / angles.sin().clamp_min(torch.finfo(angles.dtype).tiny))
        tangent = (pulls - (pulls @ cosines) * mean) / count
        step = length(tangent)
        if step < tolerance:
            break
        mean = math.cos(step) * mean + math.sin(step) * tangent / step
        mean = mean / length(mean)
    coefficients[long] = mean / lengths[long]
    return coefficients
