"""NuSLERP and Multi-SLERP against what they are by definition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from operating import cut, tensors
from torch import Tensor

from isthmus.merge.operators.custom import operator


def run(name: str, parts: list[Tensor], *, based: bool = False, rows: int = 3, **values: Any) -> Tensor:
    chosen = operator(name).with_base() if based else operator(name)
    defaults = {key: parameter.default for key, parameter in chosen.parameters.items()}
    return torch.cat(list(chosen.run(cut(parts, rows), **chosen.arguments(defaults | values, "key"))))


def slowly(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """The point at t of the arc, of vectors."""
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    angle = math.acos(min(1, max(-1, cosine)))
    if angle < 1e-8:
        return (1 - t) * a + t * b
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)


@pytest.mark.parametrize("based", [False, True])
@pytest.mark.parametrize("shape", [(7, 5), (11,)])
@pytest.mark.parametrize("of", ["whole", "rows", "columns"])
def test_nuslerp(based: bool, shape: tuple[int, ...], of: str) -> None:
    parts = tensors(2 + based, *shape)
    base, a, b = parts if based else (torch.zeros(shape), *parts)
    first, second = ((part - base).double().numpy() for part in (a, b))
    if of == "whole" or len(shape) == 1:
        expected = slowly(first.ravel(), second.ravel(), 0.3).reshape(shape)
    elif of == "rows":
        expected = np.stack([slowly(x, y, 0.3) for x, y in zip(first, second, strict=True)])
    else:
        expected = np.stack([slowly(x, y, 0.3) for x, y in zip(first.T, second.T, strict=True)]).T
    options = {"nuslerp_flatten": of == "whole", "nuslerp_row_wise": of == "columns"}
    result = run("nuslerp", parts, based=based, weight=[0.7, 0.3], **options)
    assert np.allclose(result.double().numpy(), expected + base.double().numpy(), atol=1e-5)


def test_nuslerp_of_parallel_and_of_empty_vectors_is_the_line() -> None:
    (a,) = tensors(1, 4, 3)
    for flatten in (True, False):
        result = run("nuslerp", [a, 3 * a], weight=[3.0, 1.0], nuslerp_flatten=flatten)
        assert torch.allclose(result, 1.5 * a, atol=1e-5)
        zeros = run("nuslerp", [torch.zeros(4, 3)] * 2, weight=[1.0, 1.0], nuslerp_flatten=flatten)
        assert not zeros.any()
    base = run("nuslerp", [a, a, a], based=True, weight=[1.0, 1.0])
    assert torch.equal(base, a)


@pytest.mark.parametrize("based", [False, True])
def test_multislerp(based: bool) -> None:
    parts = tensors(3 + based, 6, 4)
    base = parts[0].double().numpy() if based else np.zeros((6, 4))
    vectors = [part.double().numpy().ravel() - base.ravel() for part in parts[based:]]
    weights = np.array([0.5, 0.3, 1.0]) / 1.8
    lengths = [np.linalg.norm(vector) for vector in vectors]
    units = [vector / length for vector, length in zip(vectors, lengths, strict=True)]
    mean = sum(w * u for w, u in zip(weights, units, strict=True))
    mean /= np.linalg.norm(mean)
    tangent = sum(w * (u - (u @ mean) * mean) for w, u in zip(weights, units, strict=True))
    turn = np.linalg.norm(tangent)
    direction = math.cos(turn) * mean + math.sin(turn) * tangent / turn
    expected = float(weights @ lengths) * direction.reshape(6, 4) + base
    result = run("multislerp", parts, based=based, weight=[0.5, 0.3, 1.0])
    assert np.allclose(result.double().numpy(), expected, atol=1e-5)


def test_multislerp_where_there_is_no_direction() -> None:
    (a,) = tensors(1, 4, 3)
    assert torch.allclose(run("multislerp", [a], weight=[0.5]), a)
    assert torch.allclose(run("multislerp", [a, -a], weight=[1.0, 1.0]), torch.zeros_like(a), atol=1e-6)
    assert torch.equal(run("multislerp", [a, a, a, a], based=True, weight=[1.0, 1.0, 1.0]), a), "no task vectors"
    with pytest.raises(ArithmeticError, match="cancel"):
        run("multislerp", [a, a, -2 * a], weight=[1.0, 1.0, 2.0])
