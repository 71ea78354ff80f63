"""Averages on the sphere: of the directions of tensors, or of task vectors, and of their lengths.

All are combinations of the tensors, so that their inner products, float64, are what is worked on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce

import torch
from torch import Tensor

from .blocks import Parts, RowBlocks, WholeVectors, gram, task_vectors, weighted_sum

PARALLEL = 0.9995
SHORTEST = 1e-8
UNIT = 1e-7  # the shortest vector that has a direction, for nuslerp
COLINEAR = 1e-16  # 1 − cos², for nuslerp


def slerp(blocks: RowBlocks, *, t: float) -> Iterator[Tensor]:
    """[sin((1 − t) Ω) θ_A + sin(t Ω) θ_B] / sin Ω, Ω the angle between the two (Shoemake 1985).

    Of two whole tensors, `blocks` in float32. Where |cos Ω| > 0.9995, (1 − t) θ_A + t θ_B.
    """
    angle = slerp_angle(gram(blocks))
    weights = (1 - t, t)
    if angle is not None:
        weights = (math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle))
    for parts in blocks:
        yield weighted_sum(parts, weights)


def slerp_angle(products: Tensor) -> float | None:
    """The angle Ω between two tensors, from their inner products (2, 2); None where they are as good as parallel."""
    lengths = [length if length > SHORTEST else 1.0 for length in products.diagonal().sqrt().tolist()]
    cosine = min(1.0, max(-1.0, products[0, 1].item() / (lengths[0] * lengths[1])))
    return math.acos(cosine) if abs(cosine) <= PARALLEL else None


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


def nuslerp(
    blocks: RowBlocks,
    *,
    weights: Sequence[float],
    flatten: bool = True,
    first_axis: bool = False,
    based: bool = False,
) -> Iterator[Tensor]:
    """[sin((1 − t) Ω) θ_A + sin(t Ω) θ_B] / sin Ω with t = w_B / (w_A + w_B), Ω the angle between the two.

    Of whole tensors, or without `flatten` of their vectors along the last axis, or with `first_axis` along the first,
    each with an angle of its own. Vectors in line with each other are averaged. With `based`, the base comes first, and
    task vectors are merged, and added to it. mergekit's NuSLERP: `slerp` with weights, of a base or none.
    """
    share = weights[1] / sum(weights)
    blocks = blocks if flatten else WholeVectors(blocks)
    vectors = task_vectors(blocks) if based else blocks
    if flatten:
        products = gram(vectors)
        cosine, _ = _cosine(products[0, 0], products[1, 1], products[0, 1])
        whole = _arc(cosine, share)
    elif first_axis and next(iter(vectors))[0].ndim > 1:
        sums = reduce(torch.add, (torch.stack(_products(a, b, 0)) for a, b in vectors))
        whole = _arc(_cosine(*sums)[0], share)
    else:
        whole = None
    for base, (a, b) in _from_base(blocks, based=based):
        of_a, of_b = whole or _arc(_cosine(*_products(a, b, -1))[0][..., None], share)
        merged = of_a.to(a.dtype) * a + of_b.to(b.dtype) * b
        yield merged if base is None else merged.add_(base)


def _from_base(blocks: RowBlocks, *, based: bool) -> Iterator[tuple[Tensor | None, Parts]]:
    """The base and the task vectors, or no base and the tensors."""
    for parts in blocks:
        yield (parts[0], [part - parts[0] for part in parts[1:]]) if based else (None, parts)


def _products(a: Tensor, b: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    a, b = a.double(), b.double()
    return (a * a).sum(axis), (b * b).sum(axis), (a * b).sum(axis)


def _cosine(of_a: Tensor, of_b: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
    """The cosine of the angle, and the product of the lengths; 0 of what has no length."""
    lengths = of_a.sqrt().clamp_min(UNIT) * of_b.sqrt().clamp_min(UNIT)
    return (both / lengths).clamp(-1, 1), lengths


def _arc(cosine: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The coefficients of two vectors for the point at a share of the arc between them."""
    colinear = 1 - cosine.square() <= COLINEAR
    angle = torch.where(colinear, 1.0, cosine.acos())
    first, second = (torch.sin(part * angle) / torch.sin(angle) for part in (1 - share, share))
    return torch.where(colinear, 1 - share, first), torch.where(colinear, share, second)


def multislerp(
    blocks: RowBlocks,
    *,
    weights: Sequence[float],
    normalize: bool = True,
    smallest: float = 1e-8,
    based: bool = False,
) -> Iterator[Tensor]:
    """The weighted mean of N directions on the sphere, times the weighted mean of the lengths.

    With u_i = θ_i / ‖θ_i‖ and m = Σ w_i u_i / ‖Σ w_i u_i‖, the tangents u_i − ⟨u_i, m⟩ m are averaged, τ = Σ w_i (u_i −
    ⟨u_i, m⟩ m), and the result is cos ‖τ‖ m + sin ‖τ‖ τ / ‖τ‖: one step of the Karcher mean. `normalize` divides the
    weights by their sum. With `based`, the base comes first, and task vectors are merged, and added to it. mergekit's
    Multi-SLERP. Two opposite tensors are averaged; more whose directions cancel raise ArithmeticError.
    """
    shares = [weight / sum(weights) for weight in weights] if normalize else list(weights)
    vectors = task_vectors(blocks) if based else blocks
    factors = _on_sphere(gram(vectors), torch.tensor(shares, dtype=torch.float64), smallest)
    for base, parts in _from_base(blocks, based=based):
        merged = weighted_sum(parts, factors)
        yield merged if base is None else merged.add_(base)


def _on_sphere(products: Tensor, shares: Tensor, smallest: float) -> list[float]:
    """The coefficients of N tensors for their mean on the sphere; `products` are their inner products, (N, N)."""
    count, lengths = len(shares), products.diagonal().sqrt()
    if count == 1:
        return [1.0]
    scale = 1 / (lengths + smallest)
    units = products * torch.outer(scale, scale)
    long = float(torch.sqrt((shares @ units @ shares).clamp_min(0)))
    if long < smallest:
        if count == 2 or not bool((lengths > smallest).any()):
            return [float(share) for share in shares]
        raise ArithmeticError("the weighted directions of the models cancel")
    mean = shares / long
    tangent = shares - float(shares @ (units @ mean)) * mean
    turn = float(torch.sqrt((tangent @ units @ tangent).clamp_min(0))) + smallest
    direction = math.cos(turn) * mean + math.sin(turn) / turn * tangent
    return [float(factor) for factor in float(lengths @ shares) * scale * direction]
