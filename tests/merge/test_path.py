from __future__ import annotations

import pytest
import torch
from conftest import state_of, tiny_model

from isthmus.merge.path import LinearPath

A, B = state_of(tiny_model(0)), state_of(tiny_model(1))


def test_a_path_hits_its_endpoints_exactly() -> None:
    path = LinearPath(A, B)
    for name in A:
        assert torch.equal(path(0.0)[name], A[name])
        assert torch.equal(path(1.0)[name], B[name])


@pytest.mark.parametrize("t", [0.1, 0.5, 0.83])
def test_between_them_it_is_a_weighted_average(t: float) -> None:
    found = LinearPath(A, B)(t)
    assert list(found) == list(A)
    assert len(found) == len(A)
    for name in A:
        expected = (1 - t) * A[name].double() + t * B[name].double()
        assert torch.allclose(found[name].double(), expected, atol=1e-6)


def test_tensors_are_made_when_they_are_looked_up() -> None:
    seen = []

    class Watched(dict):
        def __getitem__(self, name: str) -> torch.Tensor:
            seen.append(name)
            return super().__getitem__(name)

    found = LinearPath(Watched(A), B)(0.5)
    assert seen == []
    found["transformer.wpe.weight"]
    assert seen == ["transformer.wpe.weight"]
