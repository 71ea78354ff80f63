"""Numbers that can be written: no NaN, no Inf, nothing beyond the range of the dtype, no matrix rounded to zero."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from .errors import NotFinite

LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]  # documented by torch


def written_blocks(blocks: Iterable[Tensor], dtype: torch.dtype, name: str, maker: str) -> Iterator[Tensor]:
    """The blocks of the tensor `name` in `dtype`, each checked before it is yielded.

    `maker` says in errors whose tensor it is: "the merge by linear". Raises NotFinite for NaN, for Inf, for numbers
    beyond the range of `dtype`, and for a matrix that is not zero and would be all zero in `dtype`.
    """
    before = after = False
    matrix = True
    for block in blocks:
        content = block.to(dtype)
        total = content.sum(dtype=torch.float32)
        if not torch.isfinite(total):  # one sum is cheaper than a look at every number
            _require_finite(block, content, name, maker)
        matrix = block.ndim > 1
        after = after or bool(total != 0) or bool(content.any())
        before = before or after or bool(block.any())
        yield content
    if matrix and before and not after:
        raise NotFinite(
            f"'{name}' of {maker} would be all zero in {_name(dtype)}, whose smallest number is "
            f"{torch.finfo(dtype).smallest_normal:.2g}: add --dtype float32"
        )


def _require_finite(block: Tensor, content: Tensor, name: str, maker: str) -> None:
    if bool(torch.isfinite(content).all()):
        return
    if bool(torch.isfinite(block).all()):
        wider = "bfloat16 or float32" if content.dtype == torch.float16 else "float32"
        raise NotFinite(
            f"'{name}' of {maker} holds {block.abs().max().item():.3g}, and {_name(content.dtype)} ends at "
            f"{torch.finfo(content.dtype).max:.3g}: add --dtype {wider}"
        )
    what = "NaN" if bool(torch.isnan(block).any()) else "Inf"
    raise NotFinite(f"'{name}' of {maker} holds {what}, so nothing is written: try other parameters or other models")


def require_writable(state: Mapping[str, Tensor], dtype: torch.dtype, maker: str) -> None:
    """Check every tensor of a state as it would be written, one at a time. Raises as `written_blocks` does."""
    for name in state:
        for _ in written_blocks([state[name]], dtype, name, maker):
            pass


def magnitude(block: Tensor) -> float:
    """The largest magnitude in a tensor; NaN if it holds one, 0 if it is empty."""
    if not block.numel():
        return 0.0
    low, high = torch.aminmax(block)
    return max(-low.item(), high.item())


def place_of_nan(content: object, place: str = "") -> str | None:
    """Where in JSON-ready data the first NaN or Inf is, as ``merge_point.losses.docs``; None if there is none."""
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
    """Raise NotFinite if a decomposition fails because numbers are too large; `what` names the computation."""
    try:
        yield
    except LinAlgError:
        raise NotFinite(
            f"{what} failed: products of the weights overflow; check the models, or use --align none"
        ) from None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
