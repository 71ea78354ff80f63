"""Where the zero-loss regions of two optimizers meet at large width: exact up to a grid of directions.

Write a wide network as a measure μ over neurons: f = ∫ a max(0, w · x) dμ. In it, all constraints are linear:

- the spectral set of radius c: ∫ a² dμ ≤ c² and ∫ (w · v)² dμ ≤ c² for all directions v;
- the box of radius b at width m, of neurons (a, w) / √m with |a|, ‖w‖_∞ ≤ κ = b √m: all mass there, total mass ≤ 1.

Scaling a and w by s and the mass by 1/s² changes neither outputs nor spectral constraint, so all mass can be put on the
surface of the box: what it needs is Σ p ≤ κ², where column p has max(|a|, ‖w‖_∞) = 1. So the least c² of a zero-loss
network in both sets is a linear programme in p with κ² on its right-hand side,

    c²(κ²) = min τ:  Σ p a φ = y,  Σ p a² ≤ τ,  Σ p (w · v)² ≤ τ for all v,  Σ p ≤ κ²,  p ≥ 0,

convex and falling in κ²: infeasible below κ*² (the box is empty of zero-loss networks), and at least c*² = c²(∞) (below
it the spectral set is). Between c*² and c²(κ²) both regions exist and are disjoint; above, they overlap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from .network import Data

ANGLES, RATIOS, DIRECTIONS = 180, 17, 48


@dataclass(frozen=True)
class Frontier:
    """The least κ² of the box, the least c² of the spectral set, and the least c² in both for each κ² of a list."""

    least_box: float
    least_spectral: float
    curve: tuple[tuple[float, float], ...]


def frontier(
    data: Data, multiples: Sequence[float] = (1, 1.05, 1.1, 1.2, 1.35, 1.5, 1.75, 2, 2.5, 3, 4, 6, 10)
) -> Frontier:
    """The regions' frontier for two-dimensional inputs, at κ² of these multiples of the least."""
    inner, outer = _neurons(data)
    features = (torch.relu(data.inputs @ inner.T) * outer).numpy()  # (n, columns)
    angle = torch.arange(DIRECTIONS) * math.pi / DIRECTIONS
    along = torch.stack([angle.cos(), angle.sin()]).double()
    costs = torch.cat([outer.square()[None], (inner @ along).square().T]).numpy()  # (1 + directions, columns)
    count = features.shape[1]
    fit = {"A_eq": features, "b_eq": data.targets.numpy()}
    least_box = linprog(np.ones(count), **fit, method="highs").fun
    fit["A_eq"] = np.hstack([features, np.zeros((len(features), 1))])
    above = np.hstack([costs, -np.ones((len(costs), 1))])
    objective = np.append(np.zeros(count), 1.0)
    mass = np.append(np.ones(count), 0.0)[None]
    curve = []
    for multiple in multiples:
        limit = np.append(np.zeros(len(costs)), least_box * multiple * (1 + 1e-9))
        solution = linprog(objective, A_ub=np.vstack([above, mass]), b_ub=limit, **fit, method="highs")
        curve.append((float(least_box * multiple), float(solution.fun)))
    free = linprog(objective, A_ub=above, b_ub=np.zeros(len(costs)), **fit, method="highs")
    return Frontier(float(least_box), float(free.fun), tuple(curve))


def _neurons(data: Data) -> tuple[Tensor, Tensor]:
    """Neurons on the surface of the box max(|a|, ‖w‖_∞) = 1: inner (columns, 2) and outer (columns,)."""
    kinks = torch.stack([-data.inputs[:, 1], data.inputs[:, 0]], dim=1)
    angles = torch.cat(
        [torch.linspace(0, 2 * math.pi, ANGLES + 1)[:-1].double()]
        + [torch.atan2(sign * kinks[:, 1], sign * kinks[:, 0]) for sign in (1, -1)]
    )
    ratios = torch.logspace(-1, 1, RATIOS, dtype=torch.float64)
    grid = torch.cartesian_prod(angles, ratios, torch.tensor([1.0, -1.0], dtype=torch.float64))
    inner = torch.stack([grid[:, 0].cos(), grid[:, 0].sin()], dim=1)
    outer = grid[:, 1] * grid[:, 2]
    surface = torch.maximum(inner.abs().amax(1), outer.abs())
    return inner / surface[:, None], outer / surface
