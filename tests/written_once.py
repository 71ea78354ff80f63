"""What models write is written once for all tests of a process: a token at a time, which takes long for any model.

The same weights, configuration, beginnings and seed give the same text (`tests/eval/test_samples.py`). Tests of that,
and of runs that repeat each other, let models write `afresh`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

_WRITTEN: dict[bytes, Tensor] = {}
_AFRESH: list[bool] = []


def remembered(write: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`isthmus.eval.samples.written_blocks`, giving again what it gave for the same arguments."""

    @functools.wraps(write)
    def writing(
        state: Mapping[str, Tensor], config: Any, first: Tensor, length: int, *, seed: int, device: str = "cpu"
    ) -> Tensor:
        if _AFRESH:
            return write(state, config, first, length, seed=seed, device=device)
        tensors = dict(state.items())
        asked = blake2b(f"{config.to_json_string(use_diff=False)} {length} {seed} {device}".encode())
        for name, tensor in [*sorted(tensors.items()), ("", first)]:
            asked.update(f" {name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            asked.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())
        key = asked.digest()
        if key not in _WRITTEN:
            _WRITTEN[key] = write(tensors, config, first, length, seed=seed, device=device)
        return _WRITTEN[key].clone()

    return writing


@contextmanager
def writing_afresh() -> Iterator[None]:
    """Within this, models write all anew."""
    _AFRESH.append(True)
    try:
        yield
    finally:
        _AFRESH.pop()
