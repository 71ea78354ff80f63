"""Fisher merging and RegMean against what they are to minimise."""

from __future__ import annotations

import pytest
import torch

from isthmus.merge.operators.averages import fisher, regmean


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_fisher_is_the_minimum_of_the_quadratics() -> None:
    """Σ w_i F_i (θ − θ_i)² has its minimum at the merge: its gradient is 0 there."""
    models, information = (
        [random(6, 4, seed=i) for i in range(3)],
        [random(6, 4, seed=i + 9).square() for i in range(3)],
    )
    weights = [0.5, 1.0, 2.0]
    merged = torch.cat(list(fisher([(*models, *information)], weights=weights, floor=0.0)))
    gradient = sum(w * f * (merged - x) for w, f, x in zip(weights, information, models, strict=True))
    assert torch.as_tensor(gradient).abs().max() < 1e-5


def test_fisher_without_information_is_the_average() -> None:
    models = [random(6, 4, seed=i) for i in range(2)]
    nothing = [torch.zeros(6, 4)] * 2
    merged = torch.cat(list(fisher([(*models, *nothing)], weights=[1.0, 3.0])))
    assert torch.allclose(merged, 0.25 * models[0] + 0.75 * models[1], atol=1e-6)


def test_fisher_in_blocks_is_fisher() -> None:
    parts = [random(6, 4, seed=i).abs() for i in range(4)]
    whole = torch.cat(list(fisher([tuple(parts)], weights=[1.0, 1.0])))
    blocks = list(zip(*(part.split(2) for part in parts), strict=True))
    assert torch.equal(torch.cat(list(fisher(blocks, weights=[1.0, 1.0]))), whole)


@pytest.mark.parametrize("axis", [0, 1])
def test_regmean_is_the_least_squares_solution(axis: int) -> None:
    """min_W Σ_i ‖X_i W − X_i W_i‖² by stacking, for a weight that is stored either way round."""
    inputs = [random(50, 5, seed=i) for i in range(3)]
    weights = [random(5, 4, seed=i + 9) for i in range(3)]
    grams = [(x.T @ x).double() / len(x) for x in inputs]
    stacked = torch.cat(inputs).double()
    targets = torch.cat([x.double() @ w.double() for x, w in zip(inputs, weights, strict=True)])
    expected = torch.linalg.lstsq(stacked, targets).solution
    stored = [weight.movedim(0, axis) for weight in weights]
    blocks = list(zip(*(weight.split(2) for weight in stored), strict=True))
    merged = torch.cat(list(regmean(blocks, weights=[1.0] * 3, grams=grams, axis=axis, shrink=1.0)))
    assert torch.allclose(merged.movedim(axis, 0).double(), expected, atol=1e-5)


def test_regmean_of_diagonal_moments_weighs_rows() -> None:
    grams = [torch.diag(torch.tensor([1.0, 4.0])).double(), torch.diag(torch.tensor([3.0, 4.0])).double()]
    a, b = random(2, 3, seed=1), random(2, 3, seed=2)
    merged = torch.cat(list(regmean([(a, b)], weights=[1.0, 1.0], grams=grams)))
    assert torch.allclose(merged, torch.stack([0.25 * a[0] + 0.75 * b[0], (a[1] + b[1]) / 2]), atol=1e-5)


def test_regmean_survives_inputs_that_never_vary() -> None:
    gram = torch.zeros(2, 2, dtype=torch.float64)
    gram[0, 0] = 1.0
    a, b = random(2, 3, seed=1), random(2, 3, seed=2)
    merged = torch.cat(list(regmean([(a, b)], weights=[1.0, 1.0], grams=[gram, gram])))
    assert torch.allclose(merged, (a + b) / 2, atol=1e-4)


def test_regmean_of_what_is_no_linear_map_is_the_average() -> None:
    a, b = random(7, seed=1), random(7, seed=2)
    merged = torch.cat(list(regmean([(a, b)], weights=[1.0, 3.0], grams=None)))
    assert torch.allclose(merged, 0.25 * a + 0.75 * b, atol=1e-6)
