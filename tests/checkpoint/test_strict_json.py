from __future__ import annotations

import json

import pytest

from isthmus.checkpoint.errors import CorruptCheckpoint
from isthmus.checkpoint.strict_json import DEEPEST, parse_json, parse_object
from isthmus.checkpoint.untrusted_text import json_text

REFUSED = {
    "nothing": ("", "is not valid JSON"),
    "NaN": ('{"a": NaN}', "holds NaN, which is not a number in JSON"),
    "minus Infinity": ("[-Infinity]", "holds -Infinity, which is not a number in JSON"),
    "beyond a float": ('{"a": -1e999}', "holds the number -1e999, which is too large"),
    "5,000 digits": ("1" * 5000, "holds a number of 5000 digits"),
    "400 digits": ("1" * 400, "holds a number of 400 digits"),
    "half a character": (r'{"a": ["\ud800x"]}', r"holds \\ud800, half of a character"),
    "the other half, in a key": (r'{"\uDFFF": 1}', r"holds \\udfff, half of a character"),
    "too deep to parse": ("[" * 10**5, "nests lists and objects more than 100 levels deep"),
    "too deep to use": ('{"a":' * 500 + "1" + "}" * 500, "nests lists and objects more than 100 levels deep"),
    "not UTF-8": (b'{"a": "\xff"}', "is not valid JSON"),
    "a surrogate in UTF-8": (b'"\xed\xa0\x80"', "is not valid JSON"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "is not valid JSON"),
    "UTF-16": ("{}".encode("utf-16"), "is not valid JSON"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_others_could_not_read_is_refused(kind: str) -> None:
    content, message = REFUSED[kind]
    with pytest.raises(CorruptCheckpoint, match=rf"^'x\.json' of 'm' {message}.*: "):
        parse_json(content, "'x.json' of 'm'")


@pytest.mark.parametrize("value", [None, True, 1.5, 10**30, "\U0001f600", {"a": [{}, "\u2028", "\x00"]}, "\\ud800"])
def test_anything_else_is_what_it_was(value: object) -> None:
    assert parse_json(json.dumps(value), "it") == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode(), "it") == value


def test_as_deep_as_allowed() -> None:
    assert parse_json("[" * DEEPEST + "]" * DEEPEST, "it")
    with pytest.raises(CorruptCheckpoint):
        parse_json("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "it")


@pytest.mark.parametrize("content", ["[]", "null", "true", "3", '"x"'])
def test_an_object_is_an_object(content: str) -> None:
    with pytest.raises(CorruptCheckpoint, match=r"it holds .* instead of a JSON object"):
        parse_object(content, "it")


def test_two_values_for_one_key() -> None:
    assert parse_object('{"a": 1, "a": 2}', "it") == {"a": 2}
    with pytest.raises(CorruptCheckpoint, match='has two values for "a"'):
        parse_json('{"b": {"a": 1, "a": 2}}', "it", unique=True)


def test_a_repeated_key_among_very_many() -> None:
    """Every key is looked at once: comparing each with all others would take minutes."""
    keys = ",".join(f'"k{number}":0' for number in range(200_000))
    with pytest.raises(CorruptCheckpoint, match='has two values for "last"'):
        parse_json(f'{{{keys},"last":0,"last":0}}', "it", unique=True)


def test_what_is_written_can_be_encoded() -> None:
    value = {"a\udcff": ["\ud800", "é", "\U0001f600"]}
    assert json.loads(json_text(value).encode()) == value
    assert "é" in json_text(value)
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text({"a": float("nan")})
