from __future__ import annotations

import torch

from isthmus.eval.barrier import Profile
from isthmus.eval.loss import Losses
from isthmus.merge.search import gap, grid, inside, objective_losses


def measured(**by_label: list[list[float]]) -> Profile:
    """Label → for every t, the losses of its blocks."""
    count = len(next(iter(by_label.values())))
    rows = [
        Losses({label: torch.tensor(v[i], dtype=torch.float64) for label, v in by_label.items()}) for i in range(count)
    ]
    return Profile(tuple(zip(grid(count), rows, strict=True)))


def test_the_grid_is_even_and_clean() -> None:
    assert grid() == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


def test_the_interior_has_its_ends() -> None:
    assert [t for t in grid() if inside(t, 0.1)] == grid()[1:-1]
    assert [t for t in grid() if inside(t, 0.25)] == [0.3, 0.4, 0.5, 0.6, 0.7]
    assert inside(0.0, 0.0)


def test_the_mean_objective_is_the_loss() -> None:
    found = measured(x=[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert objective_losses(found, 0.5, "mean").mean == 3.5
    assert gap(found, 0.5, 0.0, "mean") == (2.0, 0.0)


def test_the_worst_objective_is_the_highest_excess_of_any_label() -> None:
    """At 0.5, x lies on its line and y is 0.4 above it."""
    found = measured(x=[[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]], y=[[1.0, 1.0], [1.4, 1.4], [1.0, 1.0]])
    losses = objective_losses(found, 0.5, "worst")
    assert losses.per_block.keys() == {"y"}
    assert abs(losses.mean - 0.4) < 1e-12


def test_a_gap_is_paired_block_by_block() -> None:
    """The blocks differ by 10, the two points by 0.1 and 0.3 on them."""
    found = measured(x=[[1.0, 11.0], [1.1, 11.3], [1.0, 11.0]])
    mean, stderr = gap(found, 0.5, 0.0, "mean")
    assert abs(mean - 0.2) < 1e-12
    assert abs(stderr - 0.1) < 1e-12


def test_a_gap_of_points_that_saw_different_numbers_of_blocks_is_over_those_that_both_saw() -> None:
    first, second = Losses({"x": torch.tensor([1.0, 2.0, 9.0])}), Losses({"x": torch.tensor([0.5, 1.0])})
    assert gap(Profile(((0.0, first), (1.0, second))), 0.0, 1.0, "mean")[0] == 0.75
