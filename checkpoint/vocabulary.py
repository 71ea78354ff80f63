"""Two vocabularies of which one is the other, grown: tokens added at the end, or rows of padding.

The rows that both have are merged; those that only one has are kept from it. A tokenizer maps tokens to rows of the
embedding; an embedding may have more rows than its tokenizer has tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Vocabulary:
    """The `tokens` of a model by their ids, and the `rows` of its embedding."""

    tokens: Mapping[str, int]
    rows: int


@dataclass(frozen=True)
class Growth:
    """What became of two vocabularies that share their first `shared` rows.

    The merge has `total` rows; from `shared` on they are those of the model `owner`, 0 or 1. `added` are the tokens
    that only the owner knows.
    """

    shared: int
    total: int
    owner: int
    added: tuple[str, ...] = ()


@dataclass(frozen=True)
class Conflict:
    """Why two vocabularies cannot be one: `count` tokens that differ, and an example."""

    count: int
    example: str


def compare_vocabularies(a: Vocabulary, b: Vocabulary) -> Growth | Conflict | None:
    """How two vocabularies fit: None when they are the same, `Growth` when only one of them grew, else `Conflict`."""
    differing = [t for t in a.tokens.keys() | b.tokens.keys() if a.tokens.get(t) != b.tokens.get(t)]
    if not differing:
        if a.rows == b.rows:
            return None
        return Growth(min(a.rows, b.rows), max(a.rows, b.rows), int(b.rows > a.rows))
    owner = int(all(token not in a.tokens for token in differing))
    larger, smaller = (b.tokens, a.tokens) if owner else (a.tokens, b.tokens)
    added = sorted((larger[token], token) for token in differing if token in larger)
    if any(token in smaller for token in differing) or added[0][0] <= max(smaller.values(), default=-1):
        return Conflict(len(differing), _example(sorted(differing)[0], a.tokens, b.tokens))
    rows, total = (a.rows, b.rows) if owner else (b.rows, a.rows)
    return Growth(min(rows, total, added[0][0]), total, owner, tuple(token for _, token in added))


def _example(token: str, a: Mapping[str, int], b: Mapping[str, int]) -> str:
    shown = json.dumps(token, ensure_ascii=False)
    return f"{shown} is {a.get(token, 'missing')} in the one and {b.get(token, 'missing')} in the other"
