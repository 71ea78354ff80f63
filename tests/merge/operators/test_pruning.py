"""Model Breadcrumbs and DELLA, entry by entry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from operating import run, tensors
from torch import Tensor

from isthmus.checkpoint.errors import BadInput
from isthmus.merge.operators.custom import operator
from isthmus.merge.operators.pruning import _probabilities

WEIGHTS = [0.5, -0.3, 1.0]


def slowly_pruned(delta: Tensor, density: float, gamma: float) -> Tensor:
    """Without the largest entries, and without the smallest: by sorting a list."""
    if density >= 1:
        return delta
    order = sorted(range(delta.numel()), key=lambda i: abs(float(delta.flatten()[i])))
    kept = int(density * len(order))
    first = max(0, len(order) - kept - int(gamma * len(order)))
    pruned = torch.zeros_like(delta).flatten()
    for i in order[first : first + kept]:
        pruned[i] = delta.flatten()[i]
    return pruned.view_as(delta)


@pytest.mark.parametrize("densities", [[0.3, 0.7, 1.0], [0.0, 0.95, 0.5]])
@pytest.mark.parametrize("gammas", [[0.1, 0.5, 0.1], [0.0, 0.01, 0.3]])
@pytest.mark.parametrize("shape", [(7, 11), (23,)])
def test_breadcrumbs(densities: list[float], gammas: list[float], shape: tuple[int, ...]) -> None:
    base, *models = tensors(4, *shape)
    deltas = [slowly_pruned(m - base, d, g) for m, d, g in zip(models, densities, gammas, strict=True)]
    values = {"weight": WEIGHTS, "density": densities, "gamma": gammas, "lambda": 0.7}
    expected = base + 0.7 * sum(w * d for w, d in zip(WEIGHTS, deltas, strict=True))
    assert torch.allclose(run("breadcrumbs", [base, *models], 3, **values), expected, atol=1e-5)

    merged = base.clone().flatten()
    for i in range(merged.numel()):
        own = [w * float(d.flatten()[i]) for w, d in zip(WEIGHTS, deltas, strict=True)]
        sign = 1 if sum(own) >= 0 else -1
        merged[i] += 0.7 * sum(part for part in own if part * sign > 0)
    result = run("breadcrumbs_ties", [base, *models], 3, **values)
    assert torch.allclose(result, merged.view_as(base), atol=1e-5)


def test_breadcrumbs_of_equal_magnitudes_keep_their_share() -> None:
    base, model = torch.zeros(10, 10), torch.ones(10, 10)
    result = run("breadcrumbs", [base, model], 3, weight=[1.0], density=[0.25], gamma=[0.1])
    assert int(result.sum()) == 25


@pytest.mark.parametrize("name", ["della", "della_linear"])
def test_all_entries_kept_is_the_method_without_pruning(name: str) -> None:
    parts = tensors(4, 6, 5)
    plain = "ties" if name == "della" else "task_arithmetic"
    same = {"weight": [0.5, 0.3, 1.0]}
    assert torch.allclose(run(name, parts, **same), run(plain, parts, **same), atol=1e-6)


def test_larger_entries_are_kept_with_a_higher_probability() -> None:
    rows, columns = 4000, 5
    base = torch.zeros(rows, columns)
    model = torch.tensor([0.1, -0.2, 0.3, -0.4, 0.5]).expand(rows, columns).clone()
    result = run("della_linear", [base, model], 700, weight=[1.0], density=[0.5], epsilon=[0.2], rescale=False)
    shares = (result != 0).float().mean(0).tolist()
    assert np.allclose(shares, [0.3, 0.4, 0.5, 0.6, 0.7], atol=4 * (0.25 / rows) ** 0.5)
    assert torch.equal(result[result != 0], model[result != 0])
    rescaled = run("della_linear", [base, model], 700, weight=[1.0], density=[0.5], epsilon=[0.2])
    assert rescaled.abs().sum().item() == pytest.approx(model.abs().sum().item(), rel=1e-4)


def test_probabilities_rise_with_the_rank_among_the_second_axis() -> None:
    (delta,) = tensors(1, 6, 5, 3)
    delta[0], delta[1] = 1.0, delta[1].round()  # of equal ones the later is the larger
    expected = torch.empty_like(delta)
    for i in range(6):
        for k in range(3):
            order = sorted(range(5), key=lambda j: (abs(float(delta[i, j, k])), j))
            for rank, j in enumerate(order):
                expected[i, j, k] = 0.5 - 0.2 + 0.4 * rank / 4
    assert torch.allclose(_probabilities(delta, 0.5, 0.2), expected)
    assert torch.equal(_probabilities(torch.tensor(3.0), 0.5, 0.2), torch.tensor(0.5))


def test_a_vector_is_one_row_and_a_column_has_one_rank() -> None:
    base, model = torch.zeros(5000), torch.linspace(1, 2, 5000)
    result = run("della_linear", [base, model], 900, weight=[1.0], density=[0.5], epsilon=[0.4], rescale=False)
    kept = (result != 0).float()
    assert kept[:1000].mean() < 0.25
    assert kept[-1000:].mean() > 0.75
    column = run("della_linear", [torch.zeros(4000, 1), torch.ones(4000, 1)], weight=[1.0], density=[0.5])
    assert (column != 0).float().mean().item() == pytest.approx(0.5, abs=0.04)


def test_probabilities_beyond_0_and_1_are_refused() -> None:
    values = {"weight": [1.0], "density": [0.1], "epsilon": [0.15]}
    with pytest.raises(BadInput, match=r"density - epsilon to density \+ epsilon.*got 0\.1 and 0\.15"):
        operator("della").require_values(values, "x")
    operator("della").require_values({**values, "density": [1.0]}, "x")
