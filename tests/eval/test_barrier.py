from __future__ import annotations

import pytest
import torch
from conftest import state_of, tiny_config, tiny_model

from isthmus.eval.barrier import Profile, profile
from isthmus.eval.loss import Losses, LossMeter
from isthmus.merge.path import WeightPath


def losses(value: float) -> Losses:
    return Losses({"x": torch.full((3,), value, dtype=torch.float64)})


def test_excess_is_over_the_line_between_the_endpoints() -> None:
    path_profile = Profile(((0.0, losses(2.0)), (0.25, losses(2.75)), (0.5, losses(3.2)), (1.0, losses(4.0))))
    assert [path_profile.excess(t).mean for t, _ in path_profile.points] == pytest.approx([0.0, 0.25, 0.2, 0.0])
    assert path_profile.barrier == pytest.approx(0.25)
    assert path_profile.with_points([(0.75, losses(9.0))]).barrier == pytest.approx(5.5)


def test_a_path_below_its_ends_has_no_barrier_and_a_negative_excess() -> None:
    path_profile = Profile(((0.0, losses(2.0)), (0.5, losses(1.0)), (1.0, losses(2.0))))
    assert path_profile.barrier == 0.0
    assert path_profile.excess(0.5).mean == pytest.approx(-1.0)


def test_a_point_that_was_not_measured() -> None:
    with pytest.raises(KeyError):
        Profile(((0.0, losses(2.0)), (1.0, losses(4.0)))).at(0.3)


def test_a_profile_is_the_losses_of_the_states_on_the_path() -> None:
    ids = torch.randint(128, (4, 32), generator=torch.Generator().manual_seed(3))
    a, b = state_of(tiny_model(0)), state_of(tiny_model(1))
    meter = LossMeter(tiny_config(), {"x": ids})
    path_profile = profile(WeightPath("linear", a, b), meter, [0.0, 0.3, 1.0])
    assert path_profile.start.mean == meter(a).mean
    assert path_profile.end.mean == meter(b).mean
    assert path_profile.at(0.3).mean == pytest.approx(
        meter({name: 0.7 * a[name] + 0.3 * b[name] for name in a}).mean, abs=1e-5
    )
