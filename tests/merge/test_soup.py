"""Weights chosen on a loss that is known: a quadratic bowl."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from isthmus.eval.loss import Losses
from isthmus.merge.soup import EVALUATIONS, LARGEST, Kitchen


def bowl(lowest: Sequence[float], simplex: bool = True) -> Kitchen:
    place = torch.tensor(lowest, dtype=torch.float64)

    def measure(weights: tuple[float, ...]) -> Losses:
        loss = 3 + (torch.tensor(weights, dtype=torch.float64) - place).square().sum()
        return Losses({"text": torch.stack([loss - 0.1, loss + 0.1])})

    return Kitchen(measure, len(lowest), simplex)


@pytest.mark.parametrize("lowest", [(0.2, 0.8), (0.6, 0.3, 0.1), (1.0, 0.0, 0.0), (0.1, 0.2, 0.3, 0.4)])
def test_a_search_finds_the_lowest_point_of_the_simplex(lowest: tuple[float, ...]) -> None:
    kitchen = bowl(lowest)
    found = kitchen.search()
    assert sum(found) == pytest.approx(1, abs=1e-4)
    assert found == pytest.approx(lowest, abs=0.05)
    assert len(kitchen.found) <= EVALUATIONS
    assert kitchen.loss(found) <= kitchen.loss(kitchen.uniform())


def test_a_search_over_task_vectors_is_free_of_the_simplex() -> None:
    kitchen = bowl((0.9, 1.3), simplex=False)
    assert kitchen.search() == pytest.approx((0.9, 1.3), abs=0.05)


def test_weights_stay_within_their_bounds() -> None:
    kitchen = bowl((-0.5, 1.5))
    kitchen.search()
    assert all(min(weights) >= 0 and sum(weights) == pytest.approx(1, abs=1e-4) for weights in kitchen.found)
    free = bowl((-1.0, 5.0), simplex=False)
    free.search()
    assert all(0 <= weight <= LARGEST for weights in free.found for weight in weights)
    assert max(max(weights) for weights in free.found) > 1


def test_a_greedy_soup_leaves_out_what_does_not_help() -> None:
    kitchen = bowl((0.5, 0.5, 0.0))
    assert kitchen.greedy() == (0.5, 0.5, 0.0)


def test_a_greedy_soup_of_one_that_is_best_alone() -> None:
    assert bowl((0.0, 1.0, 0.0)).greedy() == (0.0, 1.0, 0.0)


def test_nothing_is_measured_twice() -> None:
    kitchen = bowl((0.3, 0.7))
    calls = []
    measure = kitchen.measure
    kitchen.measure = lambda weights: calls.append(weights) or measure(weights)
    kitchen.greedy()
    kitchen.search()
    assert len(calls) == len(set(calls)) == len(kitchen.found)
