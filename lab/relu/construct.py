"""Paths between two networks of one constraint set that stay in it and never raise the loss, by construction.

A neuron (a, w) scaled by √ρ, both its weights, adds ρ a max(0, w·x): outputs, Σ a_j² and WᵀW are linear in the ρ_j of
all neurons. So the ρ that keep the outputs on the data, and the network in the set, form a polytope:

- spectral, ‖W‖_2 and ‖a‖_2 at most c: Σ ρ_j a_j φ_j = f, Σ ρ_j w_j w_jᵀ = WᵀW, Σ ρ_j a_j² ≤ ‖a‖², ρ ≥ 0;
- entrywise: Σ ρ_j a_j φ_j = f, 0 ≤ ρ_j ≤ c² / (|a_j| ‖w_j‖_∞), once every neuron is balanced, |a_j| = ‖w_j‖_∞.

A vertex of it leaves few neurons: at most K = n + d (d + 1) / 2 + 1 in the spectral set; in the box, n and those at
their upper bound. Where A and B, so compressed, fit into one network together, the path is: compress A; let A fade by
√(1 − s) while B grows by √s in the free neurons (outputs are the average of the two, the loss is convex in them, and
both sets hold averages of WᵀW, of Σ a² and of scaled entries); move B's neurons to their places, each leaving its old
place as it grows in the new; decompress B. So any two zero-loss networks in the spectral set of width 2 K are connected
in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from .network import Data, Geometry, Networks

NOTHING = 1e-9  # a share of a neuron that counts as 0
TOLERANCE = 1e-10  # of the linear programmes
Piece = Callable[[Tensor], Networks]  # a piece of a path: the networks at every s in [0, 1], a vector


def scaled(neurons: Networks, start: Tensor, end: Tensor) -> Piece:
    """Neurons (a, w) scaled by √ρ, ρ going straight from `start` to `end`, each (m,)."""

    def at(s: Tensor) -> Networks:
        root = torch.lerp(start, end, s[:, None]).clamp_min(0).sqrt()
        return Networks(root[..., None] * neurons.inner, root * neurons.outer)

    return at


def balanced(neurons: Networks, ratio: Tensor) -> Piece:
    """(a, w) becomes (a / r^s, r^s w), r from 1 to `ratio` (m,); the function stays."""

    def at(s: Tensor) -> Networks:
        factor = ratio ** s[:, None]
        return Networks(factor[..., None] * neurons.inner, neurons.outer / factor)

    return at


def reversed_piece(piece: Piece) -> Piece:
    """The piece in the opposite direction."""
    return lambda s: piece(1 - s)


@dataclass(frozen=True)
class Compressed:
    """A network on the way to few neurons: the pieces that lead there, the neurons, and ρ (m,), mostly zeros."""

    pieces: tuple[Piece, ...]
    neurons: Networks
    share: Tensor

    @property
    def used(self) -> int:
        """The number of neurons that are left."""
        return int((self.share > 0).sum())


def width_that_suffices(points: int, inputs: int) -> int:
    """2 K, the width at which any two networks of the spectral set are connected in it."""
    return 2 * (points + inputs * (inputs + 1) // 2 + 1)


def compress(network: Networks, data: Data, geometry: Geometry, radius: float) -> Compressed:
    """Few neurons that give the same outputs on the data, and the way there inside the set; one network, (m, d).

    Raises ArithmeticError when the linear programme has no solution, which rounding alone can cause.
    """
    start = torch.ones_like(network.outer)
    if geometry == "entrywise":
        ratio = network.outer.abs() / network.inner.abs().amax(-1)
        # r for which |a| / r = r ‖w‖_∞; 1 for a neuron where either is 0.
        balance = balanced(network, torch.where((ratio > 0) & ratio.isfinite(), ratio, 1.0).sqrt())
        even = balance(torch.ones(1, dtype=torch.float64))[0]
        room = radius**2 / (even.outer.abs() * even.inner.abs().amax(-1)).clamp_min(1e-30)
        share = _few(_features(even, data), None, room)
        return Compressed((balance, scaled(even, start, share)), even, share)
    features = _features(network, data)
    rows, columns = torch.triu_indices(data.inputs.shape[1], data.inputs.shape[1])
    moments = (network.inner[:, rows] * network.inner[:, columns]).T
    share = _few(torch.cat([features, moments]), network.outer.square()[None], None)
    return Compressed((scaled(network, start, share),), network, share)


def connect(a: Networks, b: Networks, data: Data, geometry: Geometry, radius: float) -> list[Piece] | None:
    """The path from A to B, each one network (m, d); None where both, compressed, do not fit into one width."""
    first, second = (compress(one, data, geometry, radius) for one in (a, b))
    if first.used + second.used > a.width:
        return None
    used, others = first.share > 0, second.share > 0
    slots = torch.arange(a.width)  # for each of B's neurons one that A does not use: its own where that is free
    shared = slots[used & others]
    slots[shared] = slots[~used & ~others][: len(shared)]
    neurons, share = _inserted(first.neurons, second, slots)
    moving, _ = _inserted(second.neurons, second, slots)
    return [
        *first.pieces,
        scaled(neurons, first.share, share),  # A fades while B grows in these slots
        scaled(moving, share, second.share),  # B's neurons fade there, and grow in their own
        *(reversed_piece(piece) for piece in reversed(second.pieces)),
    ]


def _inserted(network: Networks, second: Compressed, slots: Tensor) -> tuple[Networks, Tensor]:
    """A network with B's neurons in these slots, and the shares of B's there, (m,)."""
    inner, outer, share = network.inner.clone(), network.outer.clone(), torch.zeros_like(second.share)
    used = second.share > 0
    inner[slots[used]], outer[slots[used]] = second.neurons.inner[used], second.neurons.outer[used]
    share[slots[used]] = second.share[used]
    return Networks(inner, outer), share


def _features(network: Networks, data: Data) -> Tensor:
    """What every neuron adds to the outputs, (n, m)."""
    return torch.relu(data.inputs @ network.inner.T) * network.outer


def _few(equal: Tensor, at_most: Tensor | None, room: Tensor | None) -> Tensor:
    """A vertex of {ρ: equal ρ = equal 1, at_most ρ ≤ at_most 1, 0 ≤ ρ ≤ room}, (m,), that uses little of the room."""
    goal, count = equal.sum(1).numpy(), equal.shape[1]
    # Of neurons that are scaled to fill their room, or to a length of 1: small ones are as good as others.
    unit = 1 / torch.cat([equal, torch.zeros(0, count) if at_most is None else at_most]).norm(dim=0).clamp_min(1e-30)
    scale = (unit if room is None else room).numpy()
    matrix, upper = equal.numpy() * scale, np.inf if room is None else 1.0
    limits = {} if at_most is None else {"A_ub": at_most.numpy() * scale, "b_ub": at_most.numpy().sum(1)}
    tolerance = {"primal_feasibility_tolerance": TOLERANCE, "dual_feasibility_tolerance": TOLERANCE}
    solution = linprog(
        np.ones(count), A_eq=matrix, b_eq=goal, bounds=(0, upper), method="highs-ds", options=tolerance, **limits
    )
    if solution.x is None:
        raise ArithmeticError(f"the linear programme was not solved: {solution.message}")
    share = np.where(solution.x < NOTHING, 0.0, np.minimum(solution.x, upper))
    free = (share > 0) & (share < upper)
    # The residual within the solver's tolerance is spread over the neurons that may move.
    share[free] += np.linalg.lstsq(matrix[:, free], goal - matrix @ share, rcond=None)[0]
    return torch.from_numpy(share.clip(0, upper) * scale)
