"""The slopes of operators, against differences of what the operators make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from isthmus.merge.operators.registry import OPERATORS
from isthmus.merge.operators.slopes import SLOPES

STEP = 1e-3
ROWS = (3, 5)  # of the blocks
CASES: list[tuple[str, dict[str, Any]]] = [
    ("linear", {}),
    ("linear", {"normalize": False}),
    ("task_arithmetic", {"scale": 0.7}),
    ("task_arithmetic", {"normalize": True, "scale": 0.7}),
    ("ties", {"densities": [0.5, 0.8, 1.0]}),
    ("ties", {"densities": [0.5, 0.8, 0.0], "normalize": False, "rescale": True, "scale": 1.3}),
    ("dare_linear", {"densities": [0.5, 0.9, 0.4], "key": "a"}),
    ("dare_linear", {"densities": [0.5, 0.9, 0.4], "key": "a", "normalize": True, "rescale": False}),
    ("dare_ties", {"densities": [0.5, 0.9, 0.4], "key": "a"}),
    ("dare_ties", {"densities": [0.5, 0.9, 0.4], "key": "a", "normalize": True}),
    ("breadcrumbs", {"densities": [0.5, 0.9, 0.4], "gammas": [0.1, 0.05, 0.2]}),
    ("breadcrumbs_ties", {"densities": [0.5, 0.9, 0.4], "gammas": [0.1, 0.05, 0.2], "normalize": True}),
    ("della_linear", {"densities": [0.5, 0.8, 0.4], "epsilons": [0.1, 0.1, 0.2], "key": "a"}),
    ("della", {"densities": [0.5, 0.8, 0.4], "epsilons": [0.1, 0.1, 0.2], "key": "a"}),
    ("fisher", {}),
    ("regmean", {"axis": 1}),
    ("regmean", {"axis": 0, "shrink": 0.5}),
    ("regmean", {"grams": None}),
]


def blocks_for(name: str, models: int = 3) -> tuple[list[list[Tensor]], dict[str, Any]]:
    """Blocks of rows of N matrices (8, 6), after a base and with statistics where the operator has them."""
    generator = torch.Generator().manual_seed(1)
    count = models + int(OPERATORS[name].needs_base)
    whole = [torch.randn(8, 6, generator=generator) for _ in range(count)]
    if name == "fisher":
        whole += [torch.rand(8, 6, generator=generator) for _ in range(models)]
    blocks = [list(parts) for parts in zip(*(torch.split(tensor, ROWS) for tensor in whole), strict=True)]
    inputs = [torch.randn(30, 6, generator=generator).double() for _ in range(models)]
    return blocks, {"grams": [x.T @ x / 30 for x in inputs]}


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_slopes_are_what_differences_are(name: str, settings: dict[str, Any]) -> None:
    blocks, statistics = blocks_for(name)
    usual = {one.argument: one.default for one in OPERATORS[name].parameters.values() if not one.each}
    settings = {**usual, **settings}
    if name == "regmean":
        axis = settings.get("axis", 0)
        own = [torch.eye(8, dtype=torch.float64) * (i + 1) for i in range(3)] if axis == 0 else statistics["grams"]
        settings = {"grams": own, **settings}
    weights = [0.5, 0.8, 0.3]

    def merged(moved: Sequence[float]) -> Tensor:
        return torch.cat(list(OPERATORS[name].run(blocks, weights=moved, **settings)))

    slopes = list(SLOPES[name](blocks, weights=weights, **settings))
    for model in range(3):
        ahead, behind = (
            merged([w + sign * STEP * (i == model) for i, w in enumerate(weights)]) for sign in (1.0, -1.0)
        )
        exact = torch.cat([block[model] for block in slopes])
        assert exact.abs().max() > 0 or settings.get("densities", [1.0] * 3)[model] == 0
        torch.testing.assert_close(exact, (ahead - behind) / (2 * STEP), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("parallel", [False, True])
def test_the_slope_of_an_arc(t: float, parallel: bool) -> None:
    blocks, _ = blocks_for("slerp", 2)
    if parallel:
        blocks = [[one, 1.1 * one] for one, _ in blocks]
    slopes = [torch.cat(list(parts)) for parts in zip(*SLOPES["slerp"](blocks, t=t), strict=True)]
    ahead, behind = (torch.cat(list(OPERATORS["slerp"].run(blocks, t=t + step))) for step in (STEP, -STEP))
    assert slopes[0].abs().max() == 0
    torch.testing.assert_close(slopes[1], (ahead - behind) / (2 * STEP), atol=2e-3, rtol=2e-3)


def test_operators_with_weights_have_slopes_but_for_those_of_angles() -> None:
    weighed = {name for name, operator in OPERATORS.items() if operator.is_weighed}
    assert weighed - {"nuslerp", "multislerp"} == SLOPES.keys()
