from __future__ import annotations

import pytest
import torch

from isthmus.eval.barrier import Profile
from isthmus.eval.loss import Losses
from isthmus.merge.point import choose_t, grid, neighbours


def measured(**by_label: list[float]) -> Profile:
    count = len(next(iter(by_label.values())))
    ts = [round(index / (count - 1), 6) for index in range(count)]
    rows = [Losses({label: torch.tensor([v[i]] * 2).double() for label, v in by_label.items()}) for i in range(count)]
    return Profile(tuple(zip(ts, rows, strict=True)))


def test_the_grid_is_even_and_clean() -> None:
    assert grid() == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


def test_mean_takes_the_lowest_loss_inside() -> None:
    found = measured(x=[1.0, 3.0, 2.5, 2.4, 9.0])
    assert choose_t(found, interior=0.1) == 0.75
    assert choose_t(found, interior=0.3) == 0.5
    assert choose_t(found, interior=0.0) == 0.0


def test_worst_takes_the_lowest_of_the_highest_excesses() -> None:
    """At 1/4 one label is far above its line; at 3/4 both are a little."""
    found = measured(x=[1.0, 1.0, 1.0, 1.2, 1.0], y=[1.0, 1.5, 1.6, 1.2, 1.0])
    assert choose_t(found, objective="worst") == 0.75
    lowest_mean = measured(x=[1.0, 0.2, 1.0, 1.2, 1.0], y=[1.0, 1.5, 1.6, 1.2, 1.0])
    assert choose_t(lowest_mean, objective="mean") == 0.25
    assert choose_t(lowest_mean, objective="worst") == 0.75


def test_among_equals_the_middle() -> None:
    assert choose_t(measured(x=[1.0, 2.0, 2.0, 2.0, 1.0])) == 0.5


@pytest.mark.parametrize(("t", "expected"), [(0.5, [0.375, 0.625]), (0.25, [0.125, 0.375]), (0.75, [0.625, 0.875])])
def test_neighbours_lie_half_way(t: float, expected: list[float]) -> None:
    assert neighbours(measured(x=[1.0] * 5), t, 0.1) == expected


def test_neighbours_stay_inside() -> None:
    assert neighbours(measured(x=[1.0] * 5), 0.25, 0.2) == [0.375]
