"""SCE, RAM, NearSwap and Arcee Fusion, entry by entry."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from operating import run, tensors

from isthmus.merge.operators.selection import _variance


@pytest.mark.parametrize("share", [0.0, 0.37, 1.0])
def test_sce(share: float) -> None:
    base, *models = tensors(4, 5, 7)
    models[1][:2], models[2][:2], models[0][:2] = base[:2], base[:2], base[:2]  # where none differs
    deltas = [(m - base).double().flatten().tolist() for m in models]
    variances = [np.var([d[i] for d in deltas]) for i in range(35)]
    kept = int(sum(v > 0 for v in variances) * share)
    chosen = set(sorted(range(35), key=lambda i: -variances[i])[:kept])
    deltas = [[x if i in chosen else 0.0 for i, x in enumerate(d)] for d in deltas]
    weights = [sum(x * x for x in d) / 35 for d in deltas]
    total = sum(weights)
    weights = [w / total if total > 1e-6 else 1 / 3 for w in weights]
    expected = base.double().flatten()
    for i in range(35):
        sign = 1 if sum(d[i] for d in deltas) >= 0 else -1
        agreeing = [(w, d[i]) for w, d in zip(weights, deltas, strict=True) if d[i] * sign > 0]
        if agreeing:
            expected[i] += sum(w * x for w, x in agreeing) / sum(w for w, _ in agreeing)
    result = run("sce", [base, *models], 2, select_topk=share)
    assert torch.allclose(result.double().flatten(), expected, atol=1e-6)


def slowly_reinforced(deltas: list[list[float]], threshold: float, factors: list[float]) -> list[float]:
    merged = []
    for entries in zip(*deltas, strict=True):
        changed = [i for i, x in enumerate(entries) if abs(x) > threshold]
        part = sum(entries[i] for i in changed) / max(1, len(changed))
        merged.append(part * factors[changed[0]] if len(changed) == 1 else part)
    return merged


def test_ram() -> None:
    base, *models = tensors(4, 6, 8)
    deltas = [(m - base).flatten().tolist() for m in models]
    expected = base.flatten() + torch.tensor(slowly_reinforced(deltas, 1.0, [1.0] * 3))
    assert torch.allclose(run("ram", [base, *models], 4, epsilon=1.0).flatten(), expected, atol=1e-5)

    counts = [[sum(abs(d[i]) > 1 for d in deltas) for i in range(48) if abs(own[i]) > 1] for own in deltas]
    ratios = [sum(n > 1 for n in own) / max(1e-9, sum(n == 1 for n in own)) for own in counts]
    factors = [1 + 0.5 * min(ratio, 2.6) for ratio in ratios]
    assert min(ratios) < 2.6 < max(ratios), "the limit counts for some, and not for all"
    expected = base.flatten() + torch.tensor(slowly_reinforced(deltas, 1.0, factors))
    result = run("ramplus_tl", [base, *models], 4, epsilon=1.0, r=0.5, alpha=2.6)
    assert torch.allclose(result.flatten(), expected, atol=1e-5)


def test_ramplus_of_a_model_that_changes_nothing() -> None:
    base, first, second = tensors(3, 5, 4)
    plain = run("ram", [base, first, second, base], epsilon=0.0)
    assert torch.allclose(run("ramplus_tl", [base, first, second, base], epsilon=0.0), plain)
    assert torch.allclose(run("ramplus_tl", [base, first, base], epsilon=0.0), first)


def test_ram_keeps_whole_what_one_model_changed() -> None:
    base = torch.zeros(2, 2)
    first, second = torch.tensor([[1.0, 0.0], [4.0, 0.0]]), torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    assert torch.equal(run("ram", [base, first, second]), torch.tensor([[1.0, 2.0], [3.0, 0.0]]))


def test_nearswap() -> None:
    base, model = tensors(2, 5, 4)
    result = run("nearswap", [base, model], 2, t=0.5)
    for old, new, merged in zip(base.flatten().tolist(), model.flatten().tolist(), result.flatten(), strict=True):
        expected = new if abs(new - old) <= 0.5 else old + 0.5 * math.copysign(1, new - old)
        assert float(merged) == pytest.approx(expected, abs=1e-5)
    assert torch.equal(run("nearswap", [base, base.clone()], t=0.5), base)


@pytest.mark.parametrize("shape", [(9, 7), (40,)])
def test_arcee_fusion(shape: tuple[int, ...]) -> None:
    base, model = tensors(2, *shape)
    rows = [(b.double().numpy(), m.double().numpy()) for b, m in zip(
        base.view(-1, shape[-1]), model.view(-1, shape[-1]), strict=True
    )]  # fmt: skip
    importance = []
    for old, new in rows:
        q, p = (np.exp(row) / np.exp(row).sum() for row in (old, new))
        importance.append(np.abs(new - old) * sum(p * np.log(p / q)))
    flat = np.sort(np.concatenate(importance))
    first, median, third = (flat[int(share * (len(flat) - 1))] for share in (0.25, 0.5, 0.75))
    taken = np.stack(importance) >= median + 1.5 * (third - first)
    assert 0 < taken.sum() < taken.size / 2
    expected = torch.where(torch.from_numpy(taken).view(shape), model, base)
    assert torch.allclose(run("arcee_fusion", [base, model], 4), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["sce", "ram", "ramplus_tl", "arcee_fusion"])
def test_models_that_are_the_base_leave_it(name: str) -> None:
    (base,) = tensors(1, 4, 3)
    copies = [base] * (1 if name == "arcee_fusion" else 3)
    assert torch.allclose(run(name, [base, *copies]), base)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_variance_of_task_vectors_that_hardly_differ(count: int) -> None:
    (common,) = tensors(1, 300)
    deltas = [common + 1e-4 * noise for noise in tensors(count, 300, seed=1)]
    for delta in deltas:
        delta[:50] = common[:50]
    expected = np.var([delta.double().numpy() for delta in deltas], axis=0)
    variance = _variance(deltas)
    assert variance[:50].count_nonzero() == 0
    assert np.allclose(variance[50:], expected[50:], rtol=1e-5, atol=0)
