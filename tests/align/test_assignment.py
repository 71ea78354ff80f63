"""Large assignment problems, whose likely pairs alone are looked at, against scipy on all pairs."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from isthmus.align import assignment as module
from isthmus.align.assignment import assignment


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def low_rank(size: int, seed: int) -> Tensor:
    return random(size, 12, seed=seed) @ random(12, size, seed=seed + 1)


def copies(size: int, seed: int) -> Tensor:
    """Each row is that of one column, and a little more."""
    rows = random(size, 40, seed=seed)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    return (rows + 0.1 * random(size, 40, seed=seed + 1)) @ rows[order].T


def heavy_tailed(size: int, seed: int) -> Tensor:
    return random(size, size, seed=seed) ** 5


def dead(size: int, seed: int) -> Tensor:
    """A third of the rows and columns are like nothing."""
    matrix = low_rank(size, seed)
    matrix[: size // 3] = 0
    matrix[:, size // 2 :] = 0
    return matrix


def whole(size: int, seed: int) -> Tensor:
    """Many pairs are equally good."""
    return random(size, size, seed=seed).round()


def attained(similarity: Tensor, order: Tensor) -> float:
    return float(similarity.double()[order, torch.arange(len(similarity))].sum())


@pytest.mark.parametrize("make", [random, low_rank, copies, heavy_tailed, dead, whole])
@pytest.mark.parametrize("size", [3, 40, 200])
def test_the_best_of_all_permutations(make, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE", 1)
    for seed in range(5):
        similarity = make(size, size, seed=seed) if make is random else make(size, seed)
        order = assignment(similarity)
        assert sorted(order.tolist()) == list(range(size))
        _, rows = linear_sum_assignment(similarity.T.double().numpy(), maximize=True)
        best = attained(similarity, torch.from_numpy(rows))
        assert attained(similarity, order) == pytest.approx(best, rel=1e-6, abs=1e-5)


@pytest.mark.parametrize("make", [low_rank, copies])
def test_of_many_rows_few_pairs_are_enough(make, monkeypatch: pytest.MonkeyPatch) -> None:
    similarity = make(1500, 0)
    expected = attained(similarity, module._among_all(similarity))
    monkeypatch.delattr(module, "_among_all")
    assert attained(similarity, assignment(similarity)) == pytest.approx(expected, rel=1e-7)


def test_pairs_that_were_left_out_are_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """From far too few of them the optimum is reached all the same."""
    similarity, rounds, sparse = low_rank(300, 0), [], module._sparse
    monkeypatch.setattr(module, "LARGE", 1)
    monkeypatch.setattr(module, "LEAST", 0.03)
    monkeypatch.setattr(module, "_sparse", lambda *pairs: rounds.append(len(pairs[0])) or sparse(*pairs))
    expected = attained(similarity, module._among_all(similarity))
    assert attained(similarity, assignment(similarity)) == pytest.approx(expected, rel=1e-7)
    assert len(rounds) > 1
    assert rounds == sorted(set(rounds))


def test_what_does_not_tell_pairs_apart_is_solved_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE", 1)
    for similarity in (torch.zeros(50, 50), torch.ones(50, 50), torch.full((1, 1), 3.0), torch.zeros(0, 0)):
        assert sorted(assignment(similarity).tolist()) == list(range(len(similarity)))
    with pytest.raises(ValueError, match="invalid numeric"):
        assignment(torch.full((4, 4), torch.nan))
