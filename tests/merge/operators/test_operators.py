"""Every operator against a slow computation of its own, and in blocks against whole tensors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from operating import run, tensors
from torch import Tensor

from isthmus.checkpoint.errors import BadInput
from isthmus.merge.operators.custom import operator
from isthmus.merge.operators.registry import OPERATORS, Parameter
from isthmus.merge.operators.task_vectors import dare_linear

VALUES: dict[str, dict[str, Any]] = {
    "linear": {"weight": [0.5, 2.0, 1.0]},
    "slerp": {"t": 0.3},
    "karcher": {},
    "task_arithmetic": {"weight": [0.5, -0.3, 1.0], "lambda": 0.7},
    "ties": {"weight": [0.5, 0.3, 1.0], "density": [0.3, 0.7, 1.0]},
    "dare_linear": {"weight": [0.5, 0.3, 1.0], "density": [0.3, 0.7, 1.0]},
    "dare_ties": {"weight": [0.5, 0.3, 1.0], "density": [0.3, 0.7, 1.0]},
    "nuslerp": {"weight": [0.5, 0.2]},
    "multislerp": {"weight": [0.5, 0.3, 1.0]},
    "della": {"weight": [0.5, 0.3, 1.0], "density": [0.3, 0.7, 1.0]},
    "della_linear": {"weight": [0.5, 0.3, 1.0], "density": [0.3, 0.7, 1.0]},
    "breadcrumbs": {"weight": [0.5, 0.3, 1.0], "density": [0.3, 0.7, 1.0], "gamma": [0.1, 0.5, 0.1]},
    "breadcrumbs_ties": {"weight": [0.5, 0.3, 1.0], "density": [0.3, 0.7, 1.0], "gamma": [0.1, 0.5, 0.1]},
    "sce": {"select_topk": 0.4},
    "ram": {"epsilon": 0.5},
    "ramplus_tl": {"epsilon": 0.5},
    "nearswap": {"t": 0.5},
    "passthrough": {"scale": [0.5]},
    "arcee_fusion": {},
    "model_stock": {},
}


WITHOUT_STATISTICS = [name for name, result in OPERATORS.items() if result.knows is None]


def parts_for(name: str, *shape: int) -> list[Tensor]:
    return tensors((OPERATORS[name].most or 3) + OPERATORS[name].needs_base, *shape)


@pytest.mark.parametrize("name", WITHOUT_STATISTICS)
@pytest.mark.parametrize("shape", [(17, 6), (23,)])
def test_blocks_change_nothing(name: str, shape: tuple[int, ...]) -> None:
    parts = parts_for(name, *shape)
    copies = [part.clone() for part in parts]
    whole = run(name, parts, **VALUES[name])
    assert whole.shape == shape
    for rows in (1, 4, 16):
        assert torch.allclose(run(name, parts, rows, **VALUES[name]), whole, atol=1e-6)
    assert all(torch.equal(part, before) for part, before in zip(parts, copies, strict=True)), "inputs are left alone"


@pytest.mark.parametrize("name", WITHOUT_STATISTICS)
def test_a_number_is_a_vector_of_one_entry(name: str) -> None:
    parts = parts_for(name, 1)
    vector = run(name, parts, **VALUES[name])
    assert torch.equal(run(name, [part.reshape(()) for part in parts], **VALUES[name]), vector.reshape(()))


@pytest.mark.parametrize("name", [name for name in WITHOUT_STATISTICS if name != "arcee_fusion"])
def test_equal_models_stay_what_they_are(name: str) -> None:
    """Idempotence: of N copies of one model every operator makes that model, with weights that sum to 1."""
    parts = parts_for(name, 9, 5)
    models = len(parts) - OPERATORS[name].needs_base
    same = parts[: OPERATORS[name].needs_base] + [parts[-1]] * models
    values = {"weight": [1 / models] * models} if "weight" in OPERATORS[name].parameters else {}
    values |= {"t": 0.3} if name == "slerp" else {}
    values |= {"t": 1e6} if name == "nearswap" else {}
    assert torch.allclose(run(name, same, **values), parts[-1], atol=1e-6)


def test_linear() -> None:
    a, b, c = (x.double().numpy() for x in tensors(3, 4, 3))
    expected = (0.5 * a + 2 * b + c) / 3.5
    assert np.allclose(run("linear", tensors(3, 4, 3), **VALUES["linear"]), expected, atol=1e-6)
    summed = run("linear", tensors(3, 4, 3), normalize=False, **VALUES["linear"])
    assert np.allclose(summed, 0.5 * a + 2 * b + c, atol=1e-6)
    assert run("linear", tensors(2, 4, 3), weight=[1.0, -1.0]).isnan().all(), "weights that sum to 0 have no average"


def test_slerp_is_the_great_circle() -> None:
    a, b = (x.double().flatten() for x in tensors(2, 4, 3))
    result = run("slerp", tensors(2, 4, 3), t=0.3).double().flatten()
    angle = math.acos(a @ b / (a.norm() * b.norm()))
    expected = (math.sin(0.7 * angle) * a + math.sin(0.3 * angle) * b) / math.sin(angle)
    assert torch.allclose(result, expected, atol=1e-6)
    # of unit vectors: on the sphere, at 0.3 of the way
    units = [x / x.norm() for x in tensors(2, 4, 3)]
    middle = run("slerp", units, t=0.3)
    assert middle.norm().item() == pytest.approx(1, abs=1e-6)
    assert math.acos((middle * units[0]).sum()) == pytest.approx(0.3 * angle, abs=1e-3)


def test_slerp_of_parallel_and_of_empty_tensors_is_the_line() -> None:
    (a,) = tensors(1, 4, 3)
    assert torch.allclose(run("slerp", [a, 3 * a], t=0.25), 1.5 * a, atol=1e-6)
    assert torch.allclose(run("slerp", [a, torch.zeros_like(a)], t=0.25), math.sin(0.75 * math.pi / 2) * a, atol=1e-6)


def test_karcher_minimises_squared_angles() -> None:
    parts = [x + 0.5 for x in tensors(4, 5, 3)]
    result = run("karcher", parts, max_iter=100, tol=1e-12)
    units = [x.flatten().double() / x.double().norm() for x in parts]

    def cost(x: Tensor) -> float:
        return sum(math.acos(min(1.0, float(x @ u / x.norm()))) ** 2 for u in units)

    best = result.flatten().double()
    assert result.norm().item() == pytest.approx(sum(x.norm().item() for x in parts) / 4, rel=1e-6)
    for direction in tensors(20, 15, seed=1):
        assert cost(best) <= cost(best + 1e-3 * direction.double()) + 1e-9


def test_karcher_of_two_is_the_middle_of_the_arc() -> None:
    a, b = (x / x.norm() for x in tensors(2, 4, 3))
    assert torch.allclose(run("karcher", [a, b], max_iter=50), run("slerp", [a, b], t=0.5), atol=1e-5)


def test_karcher_of_nothing_is_nothing() -> None:
    assert not run("karcher", [torch.zeros(4), torch.zeros(4)]).any()
    a = tensors(1, 4)[0]
    assert torch.allclose(run("karcher", [a, torch.zeros(4)]), a / 2, atol=1e-6), "half the length, the only direction"


def test_task_arithmetic() -> None:
    base, *models = (x.double().numpy() for x in tensors(4, 4, 3))
    added = sum(w * (model - base) for w, model in zip((0.5, -0.3, 1.0), models, strict=True))
    result = run("task_arithmetic", tensors(4, 4, 3), **VALUES["task_arithmetic"])
    assert np.allclose(result, base + 0.7 * added, atol=1e-6)
    normalized = run("task_arithmetic", tensors(4, 4, 3), normalize=True, **VALUES["task_arithmetic"])
    assert np.allclose(normalized, base + 0.7 * added / 1.2, atol=1e-6)


def slow_ties(base: Any, models: list[Any], weights: list[float], densities: list[float], normalize: bool) -> Any:
    """TIES entry by entry, as the paper's three steps."""
    trimmed = []
    for model, density in zip(models, densities, strict=True):
        delta = (model - base).flatten()
        order = sorted(range(delta.size), key=lambda i: (-abs(delta[i]), i))
        keep = set(order[: max(1, int(density * delta.size))])
        trimmed.append([delta[i] if i in keep else 0.0 for i in range(delta.size)])
    merged = []
    for entries in zip(*trimmed, strict=True):
        sign = 1 if sum(w * x for w, x in zip(weights, entries, strict=True)) >= 0 else -1
        agreeing = [(w, x) for w, x in zip(weights, entries, strict=True) if w * x * sign > 0]
        total = sum(w * x for w, x in agreeing)
        merged.append(total / sum(w for w, _ in agreeing) if normalize and agreeing else total)
    return base + np.array(merged).reshape(base.shape)


@pytest.mark.parametrize("normalize", [True, False])
def test_ties(normalize: bool) -> None:
    base, *models = (x.numpy() for x in tensors(4, 8, 6))
    result = run("ties", tensors(4, 8, 6), normalize=normalize, **VALUES["ties"])
    expected = slow_ties(base, models, VALUES["ties"]["weight"], VALUES["ties"]["density"], normalize)
    assert np.allclose(result, expected, atol=1e-6)


def test_ties_keeps_exactly_its_share_where_magnitudes_are_equal() -> None:
    base, model = torch.zeros(50), torch.ones(50)
    model[::2] = -1.0
    for rows in (50, 7):
        result = run("ties", [base, model], rows, weight=[1.0], density=[0.3])
        assert result.count_nonzero() == 15
        assert torch.equal(result[:15], model[:15]), "the first of equals"


@pytest.mark.parametrize("density", [0.001, 0.5, 0.999])
def test_ties_of_one_model_keeps_the_largest(density: float) -> None:
    (delta,) = tensors(1, 40, 25)
    result = run("ties", [torch.zeros_like(delta), delta], 7, weight=[1.0], density=[density])
    count = max(1, int(density * delta.numel()))
    threshold = delta.abs().flatten().sort(descending=True).values[count - 1]
    assert torch.equal(result, torch.where(delta.abs() >= threshold, delta, 0.0))


def test_ties_without_any_density_is_the_base() -> None:
    base, model = tensors(2, 5, 4)
    assert torch.equal(run("ties", [base, model], weight=[1.0], density=[0.0]), base)


def test_rescaling_keeps_the_sum_of_magnitudes() -> None:
    base, model = tensors(2, 30, 20)
    for name in ("ties", "dare_ties", "dare_linear"):
        result = run(name, [base, model], 7, weight=[1.0], density=[0.4], rescale=True)
        assert (result - base).abs().sum().item() == pytest.approx((model - base).abs().sum().item(), rel=1e-5)


def test_dare_drops_its_share_and_keeps_the_expectation() -> None:
    base, model = tensors(2, 300, 200)
    result = run("dare_linear", [base, model], weight=[1.0], density=[0.3])
    entries = result != base
    assert entries.float().mean().item() == pytest.approx(0.3, abs=0.01)
    ratio = ((result - base)[entries] / (model - base)[entries]).median().item()
    assert ratio == pytest.approx(1 / 0.3, rel=0.02)


def test_dare_without_rescaling_leaves_what_it_keeps() -> None:
    base, model = tensors(2, 30, 20)
    result = run("dare_linear", [base, model], weight=[1.0], density=[0.3], rescale=False)
    entries = result != base
    assert torch.allclose(result[entries], model[entries], atol=1e-6)


def test_dare_draws_by_its_key_and_by_model() -> None:
    base, model = tensors(2, 30, 20)
    values = {"weights": [1.0], "densities": [0.5], "rescale": False}
    first, again, other = (next(dare_linear([(base, model)], key=key, **values)) for key in ("a", "a", "b"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    two = next(dare_linear([(base, model, model)], key="a", weights=[1.0, -1.0], densities=[0.5, 0.5], rescale=False))
    assert not torch.allclose(two, base), "every model draws on its own"


def test_dare_ties_of_what_was_kept() -> None:
    """With the entries that dare_linear keeps of each, the consensus is that of TIES."""
    base, *models = tensors(3, 20, 10)
    weights, densities = [0.6, 0.8], [0.5, 0.7]
    thinned = [
        next(dare_linear([(base, *models)], key="key", weights=one, densities=densities, rescale=True))
        for one in ([1.0, 0.0], [0.0, 1.0])
    ]
    expected = slow_ties(base.numpy(), [x.numpy() for x in thinned], weights, [1.0, 1.0], False)
    result = run("dare_ties", [base, *models], weight=weights, density=densities)
    assert np.allclose(result, expected, atol=1e-5)


def test_model_stock() -> None:
    base, *models = (x.double().numpy() for x in tensors(4, 6, 5))
    deltas = [(model - base).ravel() for model in models]
    pairs = [(0, 1), (0, 2), (1, 2)]
    cosine = np.mean([deltas[i] @ deltas[j] / np.linalg.norm(deltas[i]) / np.linalg.norm(deltas[j]) for i, j in pairs])
    ratio = 3 * cosine / (1 + 2 * cosine)
    expected = ratio * sum(models) / 3 + (1 - ratio) * base
    assert np.allclose(run("model_stock", tensors(4, 6, 5)), expected, atol=1e-6)


def test_model_stock_by_row_is_that_of_every_row() -> None:
    parts = tensors(4, 6, 5)
    rows = [run("model_stock", [part[i : i + 1] for part in parts]) for i in range(6)]
    assert torch.allclose(run("model_stock", parts, 2, filter_wise=True), torch.cat(rows), atol=1e-6)
    vectors = tensors(4, 6)
    assert torch.equal(run("model_stock", vectors, 2, filter_wise=True), run("model_stock", vectors, 2))


def test_model_stock_of_opposite_models_is_the_base() -> None:
    base, delta = tensors(2, 4, 3)
    assert torch.equal(run("model_stock", [base, base + delta, base - delta]), base)


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        (Parameter("x", 1.0, lowest=0.0, highest=1.0), 1.5, "from 0 to 1"),
        (Parameter("x", 1.0, lowest=0.0), -1, "at least 0"),
        (Parameter("x", 1.0), "much", "a number"),
        (Parameter("x", 1.0), True, "a number"),
        (Parameter("x", 1.0), float("nan"), "a finite number"),
        (Parameter("x", True), 1, "true or false"),
    ],
)
def test_a_value_that_a_parameter_does_not_take(parameter: Parameter, value: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parameter.require("x", value)


def test_values_that_it_takes() -> None:
    assert Parameter("x", 1.0).require("x", "1e-5") == 1e-5, "which YAML reads as text"
    assert Parameter("x", 10).require("x", 5.0) == 5
    assert Parameter("x", False).require("x", True) is True


@pytest.mark.parametrize(("name", "count"), [("slerp", 3), ("model_stock", 1), ("slerp", 1)])
def test_a_count_of_models_that_it_does_not_take(name: str, count: int) -> None:
    with pytest.raises(BadInput, match=f"got {count}"):
        operator(name).require_count(count)


def test_a_name_that_is_none() -> None:
    with pytest.raises(BadInput, match="take one of linear, passthrough, slerp"):
        operator("averge")
