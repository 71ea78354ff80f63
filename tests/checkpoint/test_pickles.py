"""Tensors that a pickle may hold and a merge cannot use; and those that it can, though they look odd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import state_of, tiny_model
from torch import Tensor

from isthmus.checkpoint.errors import CorruptCheckpoint
from isthmus.checkpoint.loading import load

NAME = "transformer.h.0.attn.c_attn.weight"
REFUSED: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "meta": (lambda x: x.to("meta"), "has no values"),
    "sparse": (lambda x: x.to_sparse(), "is sparse"),
    "rows compressed": (lambda x: x.to_sparse_csr(), "is sparse"),
    "nested": (lambda x: torch.nested.nested_tensor([x[0], x[0, :3]]), "is a nested tensor"),
    "quantized": (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "is quantized"),
    "complex": (lambda x: x.to(torch.complex64), "has dtype torch.complex64"),
    "bool": (lambda x: x > 0, "has dtype BOOL"),
    "a list": (lambda x: x.tolist(), f"lacks the tensor '{NAME}'"),
    "missing": (lambda x: None, f"lacks the tensor '{NAME}'"),
    "without axes": (lambda x: torch.tensor(1.0), r"has shape \[\]"),
}
TAKEN: dict[str, Callable[[Tensor], Tensor]] = {
    "a parameter": lambda x: torch.nn.Parameter(x),
    "transposed twice": lambda x: x.t().contiguous().t(),
    "of half precision": lambda x: x.to(torch.bfloat16).float(),
    "a part of a larger one": lambda x: torch.cat([x, x])[: len(x)],
}


def pickled(saved: Callable[..., Path], content: object) -> Path:
    directory = saved("m")
    (directory / "model.safetensors").unlink()
    torch.save(content, directory / "pytorch_model.bin")
    return directory


@pytest.mark.parametrize("kind", REFUSED)
def test_tensors_that_cannot_be_merged(saved, kind: str) -> None:
    change, message = REFUSED[kind]
    state = state_of(tiny_model())
    with pytest.raises(CorruptCheckpoint, match=message) as caught:
        load(pickled(saved, {**state, NAME: change(state[NAME])}))
    assert "'m'" in str(caught.value)
    assert NAME in str(caught.value)


@pytest.mark.parametrize("kind", TAKEN)
def test_tensors_that_can(saved, kind: str) -> None:
    state = state_of(tiny_model())
    tensor = TAKEN[kind](state[NAME])
    assert torch.equal(load(pickled(saved, {**state, NAME: tensor})).state[NAME], tensor)


@pytest.mark.parametrize("content", [[], None, 3, "x", torch.zeros(2), {5: torch.zeros(2)}, {None: 1}, {("a", 1): 1}])
def test_what_is_no_state(saved, content: object) -> None:
    with pytest.raises(CorruptCheckpoint, match=r"'pytorch_model\.bin' of 'm' .*: save the"):
        load(pickled(saved, content))
