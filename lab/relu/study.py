"""The study of two-layer networks, part by part: constraints, connectivity, regions, and the certified barrier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from ...eval.progress import Progress
from ..options import NetworkPlan, StudyOptions
from ..parts import Part, compute
from .certificate import Problem, certify, cone_of, to_json
from .construct import compress, connect, width_that_suffices
from .network import GEOMETRY, OPTIMIZERS, Data, Geometry, Networks, Optimizer, in_the_plane, loss, size, train
from .polychain import attack, barrier, bend, permuted, straight
from .regions import frontier

POINTS, DATA_SEED = 6, 11
SAMPLES = 65  # of every piece of a constructed path
# Two solutions of width two: (1, 1) / 3 with its negative, and (−4, −1) / 9 with (2, −1) / 9; no others.
EXAMPLE = Problem(((-2, -1), (-4, 7), (4, -1), (2, -5)), (1, 1, 1, 1))
FIRST = ((Fraction(1, 3), Fraction(1, 3)), (Fraction(-1, 3), Fraction(-1, 3)))
SECOND = ((Fraction(-4, 9), Fraction(-1, 9)), (Fraction(2, 9), Fraction(-1, 9)))
SOLUTIONS = {"first": FIRST, "second": SECOND}
SOLVED = 1e-4  # a loss that counts as zero
# Decays that leave room for zero loss at all widths, and those at which one solution of EXAMPLE is in the set.
DECAY: Mapping[Optimizer, float] = {"adamw": 0.5, "lion": 0.5, "muon": 0.25}
EXAMPLE_DECAY: Mapping[Optimizer, float] = {"adamw": 1.6, "lion": 1.6, "muon": 1.1}


def relu_study(directory: Path, options: StudyOptions, progress: Progress) -> dict[str, Any]:
    """All parts of the study, JSON-ready; those that exist in `directory` are read back."""
    plan = options.size.networks
    parts: dict[str, Part] = {}
    for name, decay in product(OPTIMIZERS, plan.decays):
        parts[f"constraint, {name}, {decay}"] = partial(constraint_part, name, decay, plan)
    for name, width in product(OPTIMIZERS, plan.widths):
        parts[f"connectivity, {name}, {width}"] = partial(connectivity_part, name, width, plan)
    parts |= {"regions": regions_part, "barrier": partial(barrier_part, plan)}
    records = compute(directory / "relu", parts, "two-layer networks", options.workers, progress)
    return {
        "data": {"points": POINTS, "seed": DATA_SEED, "width_that_suffices": width_that_suffices(POINTS, 2)},
        "decay": dict(DECAY),
        **records,
    }


def constraint_part(optimizer: Optimizer, decay: float, plan: NetworkPlan) -> Mapping[str, Any]:
    """How large trained networks are, in both geometries, times λ; 1 is the bound that the optimizer induces."""
    data = in_the_plane(POINTS, DATA_SEED)
    networks = train(optimizer, data, width=plan.wide, decay=decay, seeds=plan.seeds, steps=plan.steps)
    return {
        "loss": loss(networks, data).tolist(),
        "entrywise": size(networks, "entrywise").tolist(),
        "spectral": size(networks, "spectral").tolist(),
    }


def connectivity_part(optimizer: Optimizer, width: int, plan: NetworkPlan) -> Mapping[str, Any]:
    """Barriers between networks of one optimizer, by four kinds of paths, and how far these leave its set."""
    data, geometry, decay = in_the_plane(POINTS, DATA_SEED), GEOMETRY[optimizer], DECAY[optimizer]
    a = train(optimizer, data, width=width, decay=decay, seeds=plan.seeds, steps=plan.steps)
    b = a[torch.arange(plan.seeds).roll(-1)]
    radius = max(1 / decay, float(size(a, geometry).max()))
    near = permuted(a, b)
    chain = bend(straight(a, near, plan.bends), data, inside=(geometry, radius), steps=plan.bend_steps)
    built = [
        measure_constructed(one, other, data, geometry, radius) for one, other in zip(_each(a), _each(b), strict=True)
    ]
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


def measure_constructed(
    a: Networks, b: Networks, data: Data, geometry: Geometry, radius: float
) -> Mapping[str, float] | None:
    """The constructed path, if there is one: its highest loss above that of the ends, and its violation of the set."""
    pieces = connect(a, b, data, geometry, radius)
    if pieces is None:
        return None
    s = torch.linspace(0, 1, SAMPLES, dtype=torch.float64)
    steps = [piece(s) for piece in pieces]
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


def regions_part() -> Mapping[str, Any]:
    """The frontier between disjoint and overlapping regions, κ² against c²."""
    return asdict(frontier(in_the_plane(POINTS, DATA_SEED)))


def barrier_part(plan: NetworkPlan) -> Mapping[str, Any]:
    """The solution of EXAMPLE that each optimizer reaches, the certificate, and the barrier that an attack reaches."""
    inputs, targets = (torch.tensor(one, dtype=torch.float64) for one in (EXAMPLE.inputs, EXAMPLE.targets))
    data = Data(inputs, targets)
    certificates = {neuron: certify(EXAMPLE, cone_of(EXAMPLE, neuron)) for neuron in (*FIRST, *SECOND)}
    best = max(certificates.values(), key=lambda one: one.bound)
    ends: dict[str, Any] = {}
    solutions: dict[str, Networks] = {}
    for name in OPTIMIZERS:
        options = {"width": 2, "seeds": plan.example_seeds, "steps": plan.steps}
        trained = train(name, data, decay=EXAMPLE_DECAY[name], lr=0.01, **options)
        losses = loss(trained, data)
        solved = [index for index in range(plan.example_seeds) if losses[index] < SOLVED]
        kinds = [_solution(trained[index]) for index in solved]
        counts = {kind: kinds.count(kind) for kind in (*SOLUTIONS, "other")}
        ends[name] = {"decay": EXAMPLE_DECAY[name], "runs": plan.example_seeds, **counts}
        if solved:
            solutions[name] = trained[solved[0]]
    lowest = None
    if "adamw" in solutions and "muon" in solutions:
        a, b = solutions["adamw"], solutions["muon"]
        lowest = attack(a, b, data, bends=15, chains=plan.attackers, steps=plan.attack_steps).tolist()
    return {
        "solutions": {name: [_text(neuron) for neuron in neurons] for name, neurons in SOLUTIONS.items()},
        "trained": ends,
        "certificate": to_json(best),
        "bounds": {str(_text(neuron)): str(one.bound) for neuron, one in certificates.items()},
        "attack": lowest,
    }


def _text(neuron: Sequence[Fraction]) -> list[str]:
    return [str(item) for item in neuron]


def _solution(network: Networks) -> str:
    """Which of the two solutions of EXAMPLE a network is, to a hundredth, whatever its order and scaling."""
    neurons = sorted((network.outer[:, None] * network.inner).tolist())
    for name, solution in SOLUTIONS.items():
        exact = sorted([[float(item) for item in neuron] for neuron in solution])
        if torch.allclose(torch.tensor(neurons), torch.tensor(exact), atol=0.01):
            return name
    return "other"
