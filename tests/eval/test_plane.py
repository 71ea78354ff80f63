from __future__ import annotations

import math

import pytest
import torch
from conftest import state_of, tiny_config, tiny_model

from isthmus.checkpoint.errors import BadInput
from isthmus.eval.loss import LossMeter
from isthmus.eval.plane import Plane, affine_combination, coordinates, measure_plane

A, B, C = (state_of(tiny_model(seed)) for seed in range(3))
IDS = torch.randint(128, (2, 32), generator=torch.Generator().manual_seed(0))
METER = LossMeter(tiny_config(), {"x": IDS})


def flat(state: dict) -> torch.Tensor:
    return torch.cat([state[name].double().flatten() for name in A])


def test_coordinates_are_those_of_flat_vectors() -> None:
    """Gram–Schmidt on the whole vectors is the slow way."""
    u, v = flat(B) - flat(A), flat(C) - flat(A)
    x = (u @ v / (u @ u)).item()
    height = ((v - x * u).norm() / u.norm()).item()
    assert coordinates([A, B, C]) == pytest.approx((x, height))


def test_distances_in_the_plane_are_true() -> None:
    x, y = coordinates([A, B, C])
    unit = (flat(B) - flat(A)).norm().item()
    assert math.hypot(x, y) * unit == pytest.approx((flat(C) - flat(A)).norm().item())
    assert math.hypot(x - 1, y) * unit == pytest.approx((flat(C) - flat(B)).norm().item())


def test_losses_at_the_models_are_theirs() -> None:
    """A plane of 2 x 2 points without margin has A and B at the lower corners, where C lies above the line between."""
    plane = measure_plane({"A": A, "B": B, "C": C}, METER, resolution=2, margin=0.0)
    x, y = plane.models["C"]
    assert 0 < x < 1
    assert (plane.xs, plane.ys) == ((0.0, 1.0), (0.0, y))
    assert plane.loss[0] == pytest.approx((METER(A).mean, METER(B).mean), abs=1e-5)
    shift = {name: C[name] + (0.0 - x) * (B[name] - A[name]) for name in A}
    assert plane.loss[1][0] == pytest.approx(METER(shift).mean, abs=1e-4)


def test_the_margin_is_a_share_of_the_longer_side() -> None:
    plane = measure_plane({"A": A, "B": B, "C": C}, METER, resolution=3, margin=0.5)
    side = max(1.0, plane.models["C"][1])
    assert plane.xs[0] == pytest.approx(-0.5 * side)
    assert plane.ys[0] == pytest.approx(-0.5 * side)


def test_an_affine_state() -> None:
    state = affine_combination([A, B, C], (2.0, -0.5, -0.5))
    assert list(state) == list(A)
    assert len(state) == len(A)
    for name in A:
        assert torch.allclose(state[name], 2 * A[name] - 0.5 * B[name] - 0.5 * C[name], atol=1e-5)


def test_three_models_on_a_line_span_no_plane() -> None:
    middle = {name: (A[name] + B[name]) / 2 for name in A}
    with pytest.raises(BadInput, match="lie on one line"):
        coordinates([A, B, middle])
    with pytest.raises(BadInput, match="the first two models are the same"):
        coordinates([A, A, B])


def test_a_loss_that_is_no_number_is_null_in_json() -> None:
    plane = Plane((0.0, 1.0), (0.0, 1.0), ((1.0, math.nan), (2.0, 3.0)), {"A": (0.0, 0.0)}).to_dict()
    assert plane["loss"] == [[1.0, None], [2.0, 3.0]]
