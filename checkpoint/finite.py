"""JSON without NaN and Infinity, which Python's parser takes and JSON does not know."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


class NotFinite(ValueError):
    """A number that is NaN or infinite; the message is the number as it is written."""


def finite_json(text: str) -> Any:
    """The content of a JSON text.

    Raises NotFinite for NaN, for Infinity and for a number too large for a float; ValueError for what is not JSON.
    """
    return json.loads(text, parse_constant=_refuse, parse_float=_finite)


def _refuse(written: str) -> NoReturn:
    raise NotFinite(written)


def _finite(written: str) -> float:
    number = float(written)
    if not math.isfinite(number):
        raise NotFinite(written)
    return number
