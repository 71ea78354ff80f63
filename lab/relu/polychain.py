"""Paths between two networks with trained bends, inside a constraint set or anywhere."""

from __future__ import annotations

from itertools import permutations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .network import Data, Geometry, Networks, loss, project

POINTS, MEASURED = 16, 401  # of a path, in one step of training and for its barrier
SHARPNESS = 8  # the power mean of losses that is minimised: nearly their maximum


def permuted(a: Networks, b: Networks) -> Networks:
    """Every B with its neurons in the order that brings them nearest to A's; (pairs, m, d)."""
    similarity = a.inner @ b.inner.mT + a.outer[..., :, None] * b.outer[..., None, :]
    order = torch.stack([torch.from_numpy(linear_sum_assignment(one.numpy(), maximize=True)[1]) for one in similarity])
    return Networks(b.inner.gather(1, order[..., None].expand_as(b.inner)), b.outer.gather(1, order))


def straight(a: Networks, b: Networks, bends: int) -> Networks:
    """Knots (pairs, bends + 2, m, d) on the straight line."""
    return _between(a[:, None], b[:, None], torch.linspace(0, 1, bends + 2, dtype=torch.float64))


def along(knots: Networks, t: Tensor) -> Networks:
    """The networks of a polychain at every t in [0, 1]: (pairs, points, m, d)."""
    segments = knots.outer.shape[1] - 1
    position = t * segments
    index = position.floor().long().clamp(max=segments - 1)
    return _between(knots[:, index], knots[:, index + 1], position - index)


def barrier(knots: Networks, data: Data) -> Tensor:
    """max over t of L(θ(t)) − [(1 − t) L(θ_A) + t L(θ_B)], one for every pair."""
    t = torch.linspace(0, 1, MEASURED, dtype=torch.float64)
    losses = loss(along(knots, t), data)
    return (losses - torch.lerp(losses[:, :1], losses[:, -1:], t)).amax(-1)


def bend(
    knots: Networks, data: Data, *, inside: tuple[Geometry, float] | None, steps: int, lr: float = 0.02
) -> Networks:
    """Knots whose inner ones are trained by Adam for a low maximum of the loss along the chain; the ends stay.

    With `inside`, a geometry and a radius, every step ends with a projection: the sets are convex, so all of the chain
    is inside when its knots are.
    """
    generator = torch.Generator().manual_seed(0)
    ends, free = knots[:, [0, -1]], knots[:, 1:-1].clone()
    leaves = [free.inner.requires_grad_(), free.outer.requires_grad_()]
    optimizer = torch.optim.Adam(leaves, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        t = (torch.arange(POINTS) + torch.rand(POINTS, generator=generator, dtype=torch.float64)) / POINTS
        losses = loss(along(_joined(ends, Networks(*leaves)), t), data)
        losses.pow(SHARPNESS).mean(-1).clamp_min(1e-300).pow(1 / SHARPNESS).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if inside is not None:
            with torch.no_grad():
                moved = project(Networks(*leaves), *inside)
                leaves[0].copy_(moved.inner)
                leaves[1].copy_(moved.outer)
    return _joined(ends, Networks(*leaves).clone())


def attack(a: Networks, b: Networks, data: Data, *, bends: int, chains: int, steps: int) -> Tensor:
    """The lowest barriers that trained chains reach between two networks (m, d), for every order of B's neurons: (m!,).

    `chains` of them start on the straight line with normal noise on their bends, from none to of order 1, and go
    anywhere.
    """
    generator = torch.Generator().manual_seed(0)
    lowest = []
    for order in permutations(range(b.width)):
        other = b[torch.tensor(order)]
        ends = [Networks(one.inner.expand(chains, -1, -1), one.outer.expand(chains, -1)) for one in (a, other)]
        knots = straight(ends[0], ends[1], bends)
        noise = torch.linspace(0, 1, chains, dtype=torch.float64)
        for part, scale in ((knots.inner, noise[:, None, None, None]), (knots.outer, noise[:, None, None])):
            drawn = torch.randn(part[:, 1:-1].shape, generator=generator, dtype=torch.float64)
            part[:, 1:-1] += scale * drawn
        lowest.append(barrier(bend(knots, data, inside=None, steps=steps, lr=0.01), data).min())
    return torch.stack(lowest)


def _between(a: Networks, b: Networks, t: Tensor) -> Networks:
    """The networks at every t on straight lines from A to B, along the second axis."""
    return Networks(torch.lerp(a.inner, b.inner, t[:, None, None]), torch.lerp(a.outer, b.outer, t[:, None]))


def _joined(ends: Networks, free: Networks) -> Networks:
    return Networks(
        torch.cat([ends.inner[:, :1], free.inner, ends.inner[:, 1:]], dim=1),
        torch.cat([ends.outer[:, :1], free.outer, ends.outer[:, 1:]], dim=1),
    )
