"""Odd values, and odd texts: what a file may hold that nobody who wrote a reader thought of."""

from __future__ import annotations

import json
from random import Random
from typing import Any


class Raw:
    """A piece of JSON's text that Python's values cannot say."""

    def __init__(self, text: str):
        self.text = text


def odd_value(random: Random) -> Any:
    """A value of another type, or at an edge of its own."""
    return random.choice(
        [
            None, True, False, 0, 1, -1, 2, 3, 7, 64, 65536, 2**31, 2**63, -(2**63) - 1, 10**30, 0.0, 0.5, -0.5, 1e-320,
            1e308, "", " ", "x", "0", "1", "true", "None", "gpt2", "\x00", "\n", "\x1b[31m", "../x", "[red]", "{{ x }}",
            "{", "é", "\u2028", "x" * 300, "x" * 70000, [], {}, [None], [0], ["x"], [[1]], [{}], {"a": 1}, {"": None},
            {"0": "x"}, [1, 2, 3], {"content": "x"}, {"type": "x"}, [0, "x"], [["a", 0.0]],
            Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e999"), Raw("1" * 5000), Raw("0." + "1" * 5000),
            Raw('"\\ud800"'), Raw('"a\\udfff"'), Raw('{"\\ud800": 1}'), Raw('{"a": 1, "a": 2}'),
            Raw("[" * 50 + "]" * 50),
            Raw("[" * 900 + "]" * 900), Raw("[" * 100000 + "]" * 100000), Raw('{"a":' * 3000 + "1" + "}" * 3000),
            Raw("-0"), Raw("1E400"), Raw('"\\u0000"'),
        ]
    )  # fmt: skip


def odd_relative(value: Any, random: Random) -> Any:
    """A value made of the one that is there."""
    changes = [lambda: [value], lambda: {"x": value}, lambda: str(value), lambda: [value, value]]
    if isinstance(value, bool):
        changes += [lambda: not value, lambda: int(value)]
    elif isinstance(value, (int, float)):
        changes += [lambda: -value, lambda: value + 1, lambda: value - 1, lambda: value * 2, lambda: value / 2]
        changes += [lambda: float(value), lambda: value * 1000, lambda: 0]
    elif isinstance(value, str):
        changes += [lambda: value + "x", lambda: value[:-1], lambda: value.upper(), lambda: Raw(f'"{"a"}\\ud834"')]
        changes += [lambda: value + "\x00", lambda: value * 200, lambda: value.encode().hex()]
    elif isinstance(value, list):
        changes += [lambda: value[:-1], lambda: value * 2, lambda: value[::-1], lambda: dict(enumerate(value))]
    elif isinstance(value, dict):
        changes += [lambda: list(value), lambda: list(value.values()), lambda: list(value.items())]
    return random.choice(changes)()


def mutate_tree(tree: Any, random: Random, keys: tuple[str, ...] = ()) -> tuple[Any, str]:
    """The tree with something changed at one place, and what was."""
    if not isinstance(tree, (dict, list)) or not tree or random.random() < 0.03:
        return odd_value(random), "the whole"
    if isinstance(tree, dict) and keys and random.random() < 0.3:
        key = random.choice(keys)
        value = odd_value(random)
        return {**tree, key: value}, f"{key} = {shown(value)}"
    holder, place, trail = tree, random.choice(list(_places(tree))), ""
    while True:
        trail += f"/{str(place)[:30]}"
        value = holder[place]
        if not isinstance(value, (dict, list)) or not value or random.random() < 0.35:
            break
        holder, place = value, random.choice(list(_places(value)))
    kind = random.random()
    if kind < 0.12:
        del holder[place]
        return tree, f"{trail} removed"
    if kind < 0.18 and isinstance(holder, dict):
        name = random.choice(["", "x", "\x00", "é" * 200, "0", place + " ", place.upper(), "__class__", "self"])
        holder[name] = holder.pop(place)
        return tree, f"{trail} renamed to {shown(name)}"
    new = odd_relative(value, random) if kind < 0.5 else odd_value(random)
    holder[place] = new
    return tree, f"{trail} = {shown(new)}"


def _places(tree: Any) -> Any:
    return tree.keys() if isinstance(tree, dict) else range(len(tree))


def shown(value: Any) -> str:
    return (value.text if isinstance(value, Raw) else ascii(value))[:40]


def dump(tree: Any) -> str:
    """JSON's text of a tree that may hold `Raw` pieces."""
    pieces: list[str] = []

    def default(value: Any) -> str:
        pieces.append(value.text if isinstance(value, Raw) else '"?"')
        return f"@@{len(pieces) - 1}@@"

    text = json.dumps(tree, default=default)
    for index, piece in enumerate(pieces):
        text = text.replace(f'"@@{index}@@"', piece)
    return text


def _flipped(raw: bytes, random: Random) -> bytes:
    return bytes(byte ^ (1 << random.randrange(8)) for byte in raw)


def mutate_bytes(raw: bytes, random: Random) -> tuple[bytes, str]:
    """The bytes of a file, damaged."""
    place = random.randrange(len(raw) + 1)
    changes = {
        "empty": lambda: b"",
        "truncated": lambda: raw[:place],
        "its last byte lost": lambda: raw[:-1],
        "a byte changed": lambda: raw[:place] + bytes([random.randrange(256)]) + raw[place + 1 :],
        "a bit flipped": lambda: raw[:place] + _flipped(raw[place : place + 1], random) + raw[place + 1 :],
        "bytes inserted": lambda: raw[:place] + random.randbytes(random.randint(1, 9)) + raw[place:],
        "bytes lost": lambda: raw[:place] + raw[place + random.randint(1, 50) :],
        "bytes repeated": lambda: raw[:place] + raw[max(0, place - 50) : place] + raw[place:],
        "doubled": lambda: raw + raw,
        "a byte order mark": lambda: b"\xef\xbb\xbf" + raw,
        "UTF-16": lambda: raw.decode("utf-8", "replace").encode("utf-16"),
        "NUL": lambda: raw[:place] + b"\x00" + raw[place:],
        "zeros": lambda: b"\x00" * len(raw),
        "noise": lambda: random.randbytes(200),
        "invalid UTF-8": lambda: raw[:place] + b"\xff\xfe" + raw[place:],
        "a surrogate in UTF-8": lambda: raw[:place] + b"\xed\xa0\x80" + raw[place:],
        "carriage returns": lambda: raw.replace(b"\n", b"\r\n"),
        "a web page": lambda: b"<!DOCTYPE html><html>Not found</html>",
        "a pointer of LFS": lambda: b"version https://git-lfs.example/spec/v1\noid sha256:" + b"0" * 64 + b"\n",
        "a zip": lambda: b"PK\x03\x04" + raw,
        "deep": lambda: b"[" * 100000,
    }  # fmt: skip
    name = random.choice(list(changes))
    return changes[name](), name
