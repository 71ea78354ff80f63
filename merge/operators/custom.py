"""Operators of one's own: a function with a decorator, which recipes and `--method` then know by its name.

A package makes its operators known to every isthmus beside it by entry points of the group ``isthmus.operators``: the
name of the operator, and the function.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from ...checkpoint.errors import BadInput, one_line
from .blocks import RowBlocks
from .registry import OPERATORS, Operator, Parameter, Value

GROUP = "isthmus.operators"
Function = TypeVar("Function", bound=Callable[..., Tensor])
_OWN: dict[str, Operator] = {}


class OperatorFailed(ArithmeticError):
    """An operator of one's own failed, or returned what is no merged tensor."""


def merge_method(
    name: str,
    parameters: Mapping[str, Parameter | Value] | None = None,
    *,
    base: Literal["none", "required", "optional"] = "none",
    least: int = 1,
    most: int | None = None,
) -> Callable[[Function], Function]:
    """Make a function an operator of this name: ``function(tensors, base, **parameters) → tensor``.

    It is called once for every tensor of the models, with those of all models, float32, in their order, and with the
    base's, None where there is none; it returns one of the same shape, and must not change its arguments. `parameters`
    are its keywords by their names in recipes: a default, or a `Parameter` (with bounds, one value for each model, or
    none by default). It merges `least` to `most` models, not counting the base.

    Raises BadInput for a name that is taken, or that is none.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise BadInput(f"an operator's name is made of small letters, digits and _; got '{name}'")
    if name in OPERATORS:
        raise BadInput(f"isthmus has an operator '{name}' itself: give yours another name")
    described = {
        key: value if isinstance(value, Parameter) else Parameter(key, value)
        for key, value in (parameters or {}).items()
    }

    def register(function: Function) -> Function:
        def run(blocks: RowBlocks, *, based: bool = False, **arguments: Any) -> Iterator[Tensor]:
            whole = [torch.cat(parts) if parts[0].ndim else parts[0] for parts in zip(*blocks, strict=True)]
            has_base = based or base == "required"
            merged = _called(function, whole[has_base:], whole[0] if has_base else None, arguments)
            yield merged

        _OWN[name] = Operator(
            name, run, described, needs_base=base == "required", least=least, most=most, optional=base == "optional"
        )
        return function

    return register


def _called(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], base: Tensor | None, arguments: Mapping[str, Any]
) -> Tensor:
    try:
        merged = function(tensors, base, **arguments)
    except Exception as error:
        raise OperatorFailed(f"its function raised {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(merged, Tensor):
        raise OperatorFailed(f"its function returned {type(merged).__name__}, not a tensor")
    if merged.shape != tensors[0].shape:
        raise OperatorFailed(f"its function returned the shape {[*merged.shape]}, not {[*tensors[0].shape]}")
    return merged.float()


def method_names() -> list[str]:
    """The names of all operators: isthmus' own, those that were registered, and those of packages."""
    return list(dict.fromkeys([*OPERATORS, *_OWN, *sorted(entry_points(group=GROUP).names)]))


def operator(name: str) -> Operator:
    """The operator of a name. Raises BadInput for another name, with the list of all, and one that does not load."""
    if name in OPERATORS:
        return OPERATORS[name]
    if name not in _OWN:
        points = list(entry_points(group=GROUP, name=name))
        if not points:
            near = get_close_matches(name, method_names(), n=2)
            advice = f"did you mean {' or '.join(near)}?" if near else f"take one of {', '.join(method_names())}"
            raise BadInput(f"there is no method '{name}': {advice}")
        try:
            points[0].load()
        except Exception as error:
            raise BadInput(
                f"the method '{name}' of the package '{points[0].value.partition(':')[0]}' cannot be loaded "
                f"({type(error).__name__}: {one_line(error)})"
            ) from None
        if name not in _OWN:
            raise BadInput(f"the entry point '{name}' ({points[0].value}) registers no method of that name")
    return _OWN[name]
