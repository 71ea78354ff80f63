"""Untrusted JSON, read strictly: what Python's json module accepts although other readers fail on it is refused.

Python reads NaN and Infinity, which JSON does not have, integers of any length, halves of surrogate pairs, which no
UTF-8 file can hold, and lists nested until its stack overflows.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from .errors import CorruptCheckpoint

DEEPEST = 100  # levels of nested lists and objects; tokenizers have about ten
DIGITS = 308  # of an integer, so that it can be a float
_HALF_ESCAPED = re.compile(r"\\u[dD][89abAB]|\\u[dD][c-fC-F]")


class _Refused(ValueError):
    """What is refused in a text, as the end of a sentence."""


def parse_json(content: str | bytes, where: str, *, unique: bool = False) -> Any:
    """The value of a JSON text; `where` names it in messages: 'config.json' of 'model'.

    With `unique`, an object must not have two values for one key; otherwise the last one counts, as in Python.

    Raises CorruptCheckpoint for a text that is not JSON or holds NaN or Infinity, a number beyond the range of a float,
    half of a surrogate pair, or more than `DEEPEST` nested lists and objects.
    """
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        value = json.loads(
            text,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_integer,
            object_pairs_hook=_unique if unique else None,
        )
        _require_shallow(value)
        if _HALF_ESCAPED.search(text):
            _require_text(value)
    except _Refused as error:
        raise CorruptCheckpoint(f"{where} {error}: repair the file, or fetch it again") from None
    except RecursionError:
        deep = f"{where} nests lists and objects more than {DEEPEST} levels deep"
        raise CorruptCheckpoint(f"{deep}: repair the file, or fetch it again") from None
    except ValueError:
        raise CorruptCheckpoint(f"{where} is not valid JSON: fetch it again") from None
    return value


def parse_object(content: str | bytes, where: str) -> dict[str, Any]:
    """As `parse_json`, for a text that holds an object. Also raises CorruptCheckpoint for any other value."""
    value = parse_json(content, where)
    if not isinstance(value, dict):
        raise CorruptCheckpoint(f"{where} holds {kind_of(value)} instead of a JSON object: fetch it again")
    return value


def kind_of(value: object) -> str:
    """A JSON value in messages: its kind, and the value itself if it is short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"the number {str(value)[:40]}"
    if isinstance(value, str):
        return f"the text {json.dumps(value[:40])}"
    return "an object" if isinstance(value, Mapping) else "a list"


def _constant(name: str) -> float:
    raise _Refused(f"holds {name}, which is not a number in JSON")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Refused(f"holds the number {text[:20]}, which is too large")
    return value


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise _Refused(f"holds a number of {len(text)} digits")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        repeated = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise _Refused(f"has two values for {json.dumps(repeated[:60])}")
    return content


def _require_shallow(value: Any) -> None:
    level, depth = [value], 0
    while level := [
        inner
        for outer in level
        if isinstance(outer, (dict, list))
        for inner in (outer.values() if isinstance(outer, dict) else outer)
        if isinstance(inner, (dict, list))
    ]:
        depth += 1
        if depth >= DEEPEST:
            raise RecursionError


def _require_text(value: Any) -> None:
    """Refuse text that UTF-8 cannot encode: an escape of half a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])[1:-1]
        raise _Refused(f"holds {half}, half of a character") from None
