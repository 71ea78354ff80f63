"""Numbers that a file can hold: no NaN, no Inf, nothing beyond the range of its dtype, no matrix rounded to zero."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from .errors import BadInput, NotFinite

LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]  # which torch documents


def require_number(option: str, value: float | None) -> None:
    """Raise BadInput for an option whose value is NaN or Inf; None is an option that was not given."""
    if value is not None and not math.isfinite(value):
        raise BadInput(f"{option} takes a finite number; got {value}")


def written_blocks(blocks: Iterable[Tensor], dtype: torch.dtype, name: str, maker: str) -> Iterator[Tensor]:
    """The blocks of the tensor `name` in the dtype that they are written in, each checked before it is given.

    `maker` says whose tensor it is, for the error: "the merge by linear". Raises NotFinite for NaN, for Inf, for
    numbers beyond the range of `dtype`, and for a matrix that was not zero and is in `dtype`.
    """
    before = after = False
    matrix = True
    for block in blocks:
        content = block.to(dtype)
        total = content.sum(dtype=torch.float32)
        if not torch.isfinite(total):  # cheaper than to look at every number
            _require_finite(block, content, name, maker)
        matrix = block.ndim > 1
        after = after or bool(total != 0) or bool(content.any())
        before = before or after or bool(block.any())
        yield content
    if matrix and before and not after:
        raise NotFinite(
            f"'{name}' of {maker} would be all zero in {_name(dtype)}, whose smallest number is "
            f"{torch.finfo(dtype).smallest_normal:.2g}: say --dtype float32"
        )


def _require_finite(block: Tensor, content: Tensor, name: str, maker: str) -> None:
    if bool(torch.isfinite(content).all()):
        return
    if bool(torch.isfinite(block).all()):
        wider = "bfloat16 or float32" if content.dtype == torch.float16 else "float32"
        raise NotFinite(
            f"'{name}' of {maker} holds {block.abs().max().item():.3g}, and {_name(content.dtype)} ends at "
            f"{torch.finfo(content.dtype).max:.3g}: say --dtype {wider}"
        )
    what = "NaN" if bool(torch.isnan(block).any()) else "Inf"
    raise NotFinite(f"'{name}' of {maker} holds {what}, so nothing is written: take other parameters or other models")


def require_writable(state: Mapping[str, Tensor], dtype: torch.dtype, maker: str) -> None:
    """Look at every tensor of a state as it will be written, and keep none of them. Raises as `written_blocks` does."""
    for name in state:
        for _ in written_blocks([state[name]], dtype, name, maker):
            pass


def magnitude(block: Tensor) -> float:
    """The largest magnitude in a tensor; NaN where there is one, 0 of an empty tensor."""
    if not block.numel():
        return 0.0
    low, high = torch.aminmax(block)
    return max(-low.item(), high.item())


def place_of_nan(content: object, place: str = "") -> str | None:
    """Where in JSON-ready data the first NaN or Inf is, as ``merge_point.losses.docs``; None where there is none."""
    if isinstance(content, float):
        return None if math.isfinite(content) else place
    items: Iterable[tuple[object, object]] = ()
    if isinstance(content, Mapping):
        items = content.items()
    elif isinstance(content, (list, tuple)):
        items = enumerate(content)
    for key, value in items:
        inner = place_of_nan(value, f"{place}.{key}" if place else str(key))
        if inner is not None:
            return inner
    return None


@contextmanager
def finite_algebra(what: str) -> Iterator[None]:
    """Raise NotFinite, which says `what` was being done, where a decomposition fails: its numbers were too large."""
    try:
        yield
    except LinAlgError:
        raise NotFinite(
            f"{what} failed: weights are so large that products of them overflow; check the models, or say --align none"
        ) from None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
