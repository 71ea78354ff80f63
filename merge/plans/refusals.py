"""Refusing what contradicts itself in a plan, with a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ...checkpoint.errors import BadInput


def refuse(rules: Mapping[str, bool]) -> None:
    """Raise BadInput with the first sentence that applies."""
    for sentence, applies in rules.items():
        if applies:
            raise BadInput(sentence)


def require_number(name: str, value: float | None) -> None:
    """Raise BadInput for an option whose value is NaN or Inf; None is an option that was not given."""
    if value is not None and not math.isfinite(value):
        raise BadInput(f"{name} takes a finite number; got {value}")
