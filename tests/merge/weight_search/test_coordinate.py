"""Weights chosen on a loss that is known: a quadratic bowl."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from isthmus.eval.loss import Losses
from isthmus.merge.weight_search.coordinate import EVALUATIONS, LARGEST, WeightSearch


def bowl(lowest: Sequence[float], simplex: bool = True) -> WeightSearch:
    place = torch.tensor(lowest, dtype=torch.float64)

    def measure(weights: tuple[float, ...]) -> Losses:
        loss = 3 + (torch.tensor(weights, dtype=torch.float64) - place).square().sum()
        return Losses({"text": torch.stack([loss - 0.1, loss + 0.1])})

    return WeightSearch(measure, len(lowest), simplex)


@pytest.mark.parametrize("lowest", [(0.2, 0.8), (0.6, 0.3, 0.1), (1.0, 0.0, 0.0), (0.1, 0.2, 0.3, 0.4)])
def test_a_search_finds_the_lowest_point_of_the_simplex(lowest: tuple[float, ...]) -> None:
    search = bowl(lowest)
    weights = search.search()
    assert sum(weights) == pytest.approx(1, abs=1e-4)
    assert weights == pytest.approx(lowest, abs=0.05)
    assert len(search.losses) <= EVALUATIONS
    assert search.loss(weights) <= search.loss(search.uniform())


def test_a_search_over_task_vectors_is_free_of_the_simplex() -> None:
    search = bowl((0.9, 1.3), simplex=False)
    assert search.search() == pytest.approx((0.9, 1.3), abs=0.05)


def test_weights_stay_within_their_bounds() -> None:
    search = bowl((-0.5, 1.5))
    search.search()
    assert all(min(weights) >= 0 and sum(weights) == pytest.approx(1, abs=1e-4) for weights in search.losses)
    free = bowl((-1.0, 5.0), simplex=False)
    free.search()
    assert all(0 <= weight <= LARGEST for weights in free.losses for weight in weights)
    assert max(max(weights) for weights in free.losses) > 1


def test_a_greedy_soup_leaves_out_what_does_not_help() -> None:
    search = bowl((0.5, 0.5, 0.0))
    assert search.greedy() == (0.5, 0.5, 0.0)


def test_a_greedy_soup_of_one_that_is_best_alone() -> None:
    assert bowl((0.0, 1.0, 0.0)).greedy() == (0.0, 1.0, 0.0)


def test_nothing_is_measured_twice() -> None:
    search = bowl((0.3, 0.7))
    calls = []
    measure = search.measure
    search.measure = lambda weights: calls.append(weights) or measure(weights)
    search.greedy()
    search.search()
    assert len(calls) == len(set(calls)) == len(search.losses)
