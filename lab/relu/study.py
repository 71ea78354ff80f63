"""The study of two-layer networks, part by part: constraints, connectivity, regions, and the certified barrier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from isthmus.lab.relu.constraint import GEOMETRY, Geometry, size
from isthmus.lab.relu.construct import compress, connect
from isthmus.lab.relu.network import Data, Networks, loss, in_the_plane
from isthmus.lab.relu.polychain import barrier, bend, permuted, straight
from isthmus.lab.relu.train import Optimizer, train

POINTS, DATA_SEED = 8, 3
SAMPLES = 65  # of every piece of a constructed path


@dataclass(frozen=True)
class Plan:
    """How much is computed: networks of every setting, steps of training and of bends, widths and decays."""

    seeds: int = 5
    steps: int = 4000
    bend_steps: int = 1500
    bends: int = 3
    widths: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)
    decays: tuple[float, ...] = (0.125, 0.25, 0.5, 0.7, 1.0, 1.4, 2.0)
    wide: int = 256


QUICK = Plan(seeds=2, steps=400, bend_steps=50, bends=1, widths=(8, 32), decays=(0.5, 1.0), wide=32)
DECAY: Mapping[Optimizer, float] = {"adamw": 0.5, "lion": 0.5, "muon": 0.5}


def constraint_part(optimizer: Optimizer, decay: float, plan: Plan) -> Mapping[str, Any]:
    """How large trained networks are, in both geometries, times λ; 1 is the bound that the optimizer induces."""
    data = in_the_plane(POINTS, DATA_SEED)
    found = train(optimizer, data, width=plan.wide, decay=decay, seeds=plan.seeds, steps=plan.steps)
    return {
        "loss": loss(found, data).tolist(),
        "entrywise": size(found, "entrywise").tolist(),
        "spectral": size(found, "spectral").tolist(),
    }


def connectivity_part(optimizer: Optimizer, width: int, plan: Plan) -> Mapping[str, Any]:
    """Barriers between networks of one optimizer, by four kinds of paths, and how far these leave its set."""
    data, geometry, decay = in_the_plane(POINTS, DATA_SEED), GEOMETRY[optimizer], DECAY[optimizer]
    a = train(optimizer, data, width=width, decay=decay, seeds=plan.seeds, steps=plan.steps)
    b = a[torch.arange(plan.seeds).roll(-1)]
    radius = max(1 / decay, float(size(a, geometry).max()))
    near = permuted(a, b)
    chain = bend(straight(a, near, plan.bends), data, inside=(geometry, radius), steps=plan.bend_steps)
    built = [walked(one, other, data, geometry, radius) for one, other in zip(_each(a), _each(b), strict=True)]
    return {
        "loss": loss(a, data).tolist(),
        "radius": radius,
        "straight": barrier(straight(a, b, 0), data).tolist(),
        "permuted": barrier(straight(a, near, 0), data).tolist(),
        "bent": barrier(chain, data).tolist(),
        "bent_violation": (size(chain, geometry).amax(1) - radius).tolist(),
        "used": [compress(one, data, geometry, radius).used for one in _each(a)],
        "constructed": built,
    }


def walked(a: Networks, b: Networks, data: Data, geometry: Geometry, radius: float) -> Mapping[str, float] | None:
    """The constructed path, walked: its highest loss over that of its ends, and its violation of the set; or None."""
    pieces = connect(a, b, data, geometry, radius)
    if pieces is None:
        return None
    s = torch.linspace(0, 1, SAMPLES, dtype=torch.float64)
    steps = [piece.at(s) for piece in pieces]
    ends = torch.stack([loss(a, data), loss(b, data)])
    return {
        "over_ends": max(float(loss(step, data).max()) for step in steps) - float(ends.max()),
        "violation": max(float(size(step, geometry).max()) for step in steps) - radius,
        "gaps": gaps(a, b, steps),
    }


def gaps(a: Networks, b: Networks, steps: Sequence[Networks]) -> float:
    """The largest jump of a weight from one piece to the next, and from and to the ends: 0 for a path."""
    stops = [a, *(network for step in steps for network in (step[0], step[-1])), b]
    return max(
        float(max((one.inner - other.inner).abs().max(), (one.outer - other.outer).abs().max()))
        for one, other in zip(stops[::2], stops[1::2], strict=True)
    )


def _each(networks: Networks) -> list[Networks]:
    return [networks[index] for index in range(len(networks.outer))]
