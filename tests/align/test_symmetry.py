from __future__ import annotations

import pytest
import torch

from isthmus.align.table_entries import Axis, Norm, Piece, Reader, View


@pytest.mark.parametrize("shape", [(12,), (3, 12), (12, 5)])
@pytest.mark.parametrize("runs", [1, 2])
def test_views_of_one_axis_make_the_whole(shape: tuple[int, ...], runs: int) -> None:
    whole = torch.randn(shape)
    axis, length = shape.index(12), 12 // runs
    views = [View(axis, start, start + length // 3, runs) for start in range(0, length, length // 3)]
    parts = [view.of(whole) for view in views]
    assert all(part.shape[axis] == 4 for part in parts)
    assert torch.equal(views[0].fused(parts), whole)
    assert torch.equal(views[1].in_runs(whole).flatten(axis, axis + 1), parts[1])


def test_an_interleaved_view_takes_its_part_of_every_run() -> None:
    assert View(0, 1, 3, runs=2).of(torch.arange(8)).tolist() == [1, 2, 5, 6]
    assert View(-1, 0, 1, runs=2).of(torch.arange(8).view(2, 4)).tolist() == [[0, 2], [4, 6]]


def test_a_view_of_one_run_shares_its_memory() -> None:
    whole = torch.zeros(4, 6)
    Piece("w", (Axis(), Axis()), View(-1, 2, 4)).of(whole).fill_(1)
    assert whole.sum() == 8


@pytest.mark.parametrize("neutral", [0.0, 1.0])
def test_a_norm_scales_by_its_weight_relative_to_the_neutral_value(neutral: float) -> None:
    norm, weight = Norm("n", None, (Reader("w", 0),), neutral=neutral), torch.tensor([neutral, neutral + 2])
    assert norm.scale(weight).tolist() == [1, 3]
    assert torch.equal(norm.weight_of(norm.scale(weight)), weight)


def test_which_norms_fold_and_which_biases_move() -> None:
    biased, plain = Reader("w", 0, "b"), Reader("v", 0)
    assert Norm("n", "nb", (biased,)).shifts
    assert not Norm("n", "nb", (biased, plain)).shifts
    assert not Norm("n", None, (biased,)).shifts
    assert not Norm("n", "nb", ()).folds
