"""The certificate, checked by arithmetic of its own: fractions from the JSON alone, and networks drawn at random."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from isthmus.lab.relu.certificate import Problem, certify, columns, cone_of, to_json
from isthmus.lab.relu.network import Data, Networks, loss, size
from isthmus.lab.relu.polychain import attack
from isthmus.lab.relu.study import EXAMPLE, EXAMPLE_DECAY, FIRST, SECOND

CERTIFICATE = certify(EXAMPLE, cone_of(EXAMPLE, FIRST[0]))
INPUTS = np.array(EXAMPLE.inputs, dtype=float)
TARGETS = np.array(EXAMPLE.targets, dtype=float)


def data() -> Data:
    return Data(torch.tensor(INPUTS), torch.tensor(TARGETS))


def network(neurons: object, scale: float = 1.0) -> Networks:
    """Neurons u = a w as a network with outer weights of `scale` times the square root of their length."""
    weights = torch.tensor([[float(item) for item in neuron] for neuron in neurons], dtype=torch.float64)
    outer = scale * weights.norm(dim=1).sqrt()
    return Networks(weights / outer[:, None], outer)


def test_the_two_solutions_have_no_loss_and_different_patterns() -> None:
    for solution in (FIRST, SECOND):
        assert loss(network(solution), data()).item() == pytest.approx(0, abs=1e-25)
        for neuron in solution:
            for x, target in zip(EXAMPLE.inputs, EXAMPLE.targets, strict=True):
                exact = sum(max(Fraction(0), u[0] * x[0] + u[1] * x[1]) for u in solution)
                assert exact == target
                assert neuron[0] * x[0] + neuron[1] * x[1] != 0
    assert not {cone_of(EXAMPLE, u) for u in FIRST} & {cone_of(EXAMPLE, u) for u in SECOND}


def test_every_step_of_the_proof_in_fractions() -> None:
    """Nothing of the package is used but the JSON; 64 programmes, whose cones cover the plane."""
    proof = json.loads(json.dumps(to_json(CERTIFICATE)))
    inputs, targets, rays = proof["inputs"], proof["targets"], proof["rays"]
    angles = [math.atan2(ray[1], ray[0]) % (2 * math.pi) for ray in rays]
    assert angles == sorted(angles)
    assert all(
        0 < (after - before) % (2 * math.pi) < math.pi
        for before, after in zip(angles, angles[1:] + angles[:1], strict=True)
    )
    for x in inputs:  # every activation boundary is a ray: patterns are constant in cones
        directions = {
            (math.copysign(1, ray[0] * -x[1] + ray[1] * x[0])) for ray in rays if ray[0] * x[0] + ray[1] * x[1] == 0
        }
        assert directions == {1.0, -1.0}

    def feature(ray: list[int]) -> list[int]:
        return [max(0, x[0] * ray[0] + x[1] * ray[1]) for x in inputs]

    cone, count = proof["cone"], len(rays)
    middle = [rays[cone][i] + rays[(cone + 1) % count][i] for i in (0, 1)]
    pattern = [x[0] * middle[0] + x[1] * middle[1] > 0 for x in inputs]
    assert pattern == [x[0] * FIRST[0][0] + x[1] * FIRST[0][1] > 0 for x in inputs], "the first neuron is in the cone"
    residuals = {
        tuple(map(tuple, entry["choice"])): [Fraction(item) for item in entry["residual"]]
        for entry in proof["residuals"]
    }
    wanted = set(product(product((1, -1), (cone, (cone + 1) % count)), product((1, -1), range(count))))
    assert set(residuals) == wanted
    for ((sign, ray), (other, place)), residual in residuals.items():
        used = [[sign * item for item in feature(rays[ray])]]
        used += [[other * item for item in feature(rays[edge % count])] for edge in (place, place + 1)]
        assert all(sum(f * r for f, r in zip(column, residual, strict=True)) <= 0 for column in used)
        fit = [target - r for target, r in zip(targets, residual, strict=True)]
        assert sum(f * r for f, r in zip(fit, residual, strict=True)) == 0
    lowest = min(sum(item * item for item in residual) for residual in residuals.values()) / len(targets)
    assert lowest == Fraction(proof["bound"]) == Fraction(1, 4)


def test_no_network_with_its_first_neuron_on_a_ray_is_better_and_one_is_as_good() -> None:
    generator = torch.Generator().manual_seed(0)
    rays = torch.tensor(EXAMPLE.rays(), dtype=torch.float64)
    for ray in (CERTIFICATE.cone, (CERTIFICATE.cone + 1) % len(rays)):
        count = 40_000
        free = torch.randn(count, 2, generator=generator, dtype=torch.float64)
        length = torch.rand(count, 1, generator=generator, dtype=torch.float64)
        outer = torch.randn(count, 2, generator=generator, dtype=torch.float64)
        networks = Networks(torch.stack([length * rays[ray], free], dim=1), outer)
        assert loss(networks, data()).min() >= float(CERTIFICATE.bound)
    choice = min(CERTIFICATE.residuals, key=lambda one: sum(item * item for item in CERTIFICATE.residuals[one]))
    features = np.array(columns(EXAMPLE, choice), dtype=float).T
    assert nnls(features, TARGETS)[1] ** 2 / len(TARGETS) == pytest.approx(0.25)


def test_there_are_no_other_solutions() -> None:
    """Of all patterns and signs of both neurons, with any outer weights: two, up to order and scaling."""
    rays = np.array(EXAMPLE.rays(), dtype=float)
    features = np.maximum(0, rays @ INPUTS.T)
    solutions = set()
    for (one, first), (other, second) in product(product((1, -1), range(len(rays))), repeat=2):
        edges = [first, (first + 1) % len(rays), second, (second + 1) % len(rays)]
        signs = np.array([one, one, other, other])
        weights, residual = nnls((signs[:, None] * features[edges]).T, TARGETS)
        if residual < 1e-9:
            matrix = (signs[:, None] * features[edges]).T
            assert np.linalg.matrix_rank(matrix[:, weights > 1e-12]) == (weights > 1e-12).sum(), "it is isolated"
            neurons = [weights[0] * rays[edges[0]] + weights[1] * rays[edges[1]]]
            neurons.append(weights[2] * rays[edges[2]] + weights[3] * rays[edges[3]])
            solutions.add(tuple(sorted(tuple(neuron.round(6).tolist()) for neuron in neurons)))
    exact = {
        tuple(sorted(tuple(round(float(item), 6) for item in u) for u in solution)) for solution in (FIRST, SECOND)
    }
    assert solutions == exact


def test_each_decay_leaves_room_for_one_of_them() -> None:
    """Of all scalings, the smallest: entrywise for AdamW and Lion, spectral for Muon."""

    def smallest(solution: object, geometry: str) -> float:
        base = network(solution)
        ratios = torch.logspace(-1, 1, 401, dtype=torch.float64)
        return min(
            float(size(Networks(base.inner * torch.stack([r, s])[:, None], base.outer / torch.stack([r, s])), geometry))
            for r, s in [
                *zip(ratios, ratios, strict=True),
                *((r, r * k) for r in ratios[100:300] for k in ratios[150:250:2]),
            ]
        )

    for optimizer, geometry, inside, outside in (
        ("adamw", "entrywise", FIRST, SECOND),
        ("lion", "entrywise", FIRST, SECOND),
        ("muon", "spectral", SECOND, FIRST),
    ):
        radius = 1 / EXAMPLE_DECAY[optimizer]
        assert smallest(inside, geometry) < radius < smallest(outside, geometry)


def test_trained_chains_do_not_beat_the_bound() -> None:
    lowest = attack(network(FIRST), network(SECOND), data(), bends=7, chains=6, steps=300)
    assert lowest.shape == (2,), "both orders of B's neurons"
    assert (lowest >= float(CERTIFICATE.bound) - 1e-9).all()
    assert lowest.min() < 0.5, "they try"


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_lowest_loss_agrees_with_a_library(draw: st.DataObject) -> None:
    number = st.integers(-4, 4)
    vector = st.tuples(number, number).filter(lambda v: v != (0, 0))
    inputs = draw.draw(
        st.lists(vector, min_size=3, max_size=4).filter(
            lambda vs: len({a[0] * b[1] - a[1] * b[0] != 0 for a in vs for b in vs}) > 1
        )
    )
    problem = Problem(tuple(inputs), tuple(draw.draw(st.lists(number, min_size=len(inputs), max_size=len(inputs)))))
    certificate = certify(problem, 0)
    lowest = min(
        nnls(np.array(columns(problem, choice), dtype=float).T, np.array(problem.targets, dtype=float))[1] ** 2
        for choice in certificate.residuals
    )
    assert float(certificate.bound) * len(inputs) == pytest.approx(lowest, abs=1e-9)
