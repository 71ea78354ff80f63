from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from conftest import state_of, tiny_model
from hypothesis import given
from hypothesis import strategies as st

from isthmus.merge.path import WeightPath, coefficients

A, B, M, N = (state_of(tiny_model(seed)) for seed in range(4))
PATHS = {
    "linear": WeightPath("linear", A, B),
    "polychain 1": WeightPath("polychain", A, B, (M,)),
    "polychain 2": WeightPath("polychain", A, B, (M, N)),
    "bezier 1": WeightPath("bezier", A, B, (M,)),
    "bezier 2": WeightPath("bezier", A, B, (M, N)),
}


@pytest.mark.parametrize("kind", PATHS)
def test_a_path_hits_its_endpoints_exactly(kind: str) -> None:
    path = PATHS[kind]
    for name in A:
        assert torch.equal(path(0.0)[name], A[name])
        assert torch.equal(path(1.0)[name], B[name])


@pytest.mark.parametrize("t", [0.1, 0.5, 0.83])
def test_a_line_is_a_weighted_average(t: float) -> None:
    found = PATHS["linear"](t)
    assert list(found) == list(A)
    assert len(found) == len(A)
    for name in A:
        expected = (1 - t) * A[name].double() + t * B[name].double()
        assert torch.allclose(found[name].double(), expected, atol=1e-6)


def test_a_polychain_passes_through_its_bends_in_straight_segments() -> None:
    path = PATHS["polychain 2"]
    for name in A:
        assert torch.allclose(path(1 / 3)[name], M[name], atol=1e-6)
        assert torch.allclose(path(2 / 3)[name], N[name], atol=1e-6)
        assert torch.allclose(path(0.5)[name], (M[name] + N[name]) / 2, atol=1e-6)
        assert torch.allclose(path(1 / 6)[name], (A[name] + M[name]) / 2, atol=1e-6)


@pytest.mark.parametrize("t", [0.2, 0.5, 0.9])
def test_a_bezier_curve_is_de_casteljaus(t: float) -> None:
    """Repeated straight interpolation of neighbours, in float64, is the slow way to the same point."""
    for kind in ("bezier 1", "bezier 2"):
        path = PATHS[kind]
        for name in A:
            points = [state[name].double() for state in path.points]
            while len(points) > 1:
                points = [(1 - t) * x + t * y for x, y in pairwise(points)]
            assert torch.allclose(path(t)[name].double(), points[0], atol=1e-6)


@given(st.sampled_from(["linear", "polychain", "bezier"]), st.floats(0, 1), st.integers(2, 6))
def test_coefficients_are_a_partition_of_one(kind: str, t: float, points: int) -> None:
    found = coefficients(kind, t, points)  # type: ignore[arg-type]
    assert len(found) == points
    assert min(found) >= 0
    assert math.isclose(sum(found), 1, abs_tol=1e-9)


def test_tensors_are_made_when_they_are_looked_up() -> None:
    seen = []

    class Watched(dict):
        def __getitem__(self, name: str) -> torch.Tensor:
            seen.append(name)
            return super().__getitem__(name)

    found = WeightPath("linear", Watched(A), B)(0.5)
    assert seen == []
    found["transformer.wpe.weight"]
    assert seen == ["transformer.wpe.weight"]
