"""Token ids in configurations: they belong to a tokenizer, and a merge takes them together with it.

config.json and generation_config.json name tokens by their ids (end of text, padding, forced and suppressed tokens), at
the top level and in nested settings. With the tokenizer of another model, an id means another token, or none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

DEPTH = 8  # levels of nested settings that are looked at
# Keys that hold ids of tokens, or tokens, although their names do not end like `_TOKEN_ENDS`.
_TOKEN_KEYS = frozenset({
    "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids", "forced_decoder_ids",
    "forced_bos_token", "forced_eos_token", "constraints", "sequence_bias", "stop_strings", "stop_token_ids",
    "stop_words_ids", "lang_to_id", "task_to_id", "tokenizer_class", "eos_token", "bos_token", "pad_token", "prefix",
})  # fmt: skip
_TOKEN_ENDS = ("_token_id", "_token_ids", "_token_index", "_tokens_ids", "_tokens_id")
# Nested settings that may name tokens.
_NESTED = ("generation_config", "generation", "task_specific_params")


def is_token_key(key: str) -> bool:
    """Whether a key of a configuration holds ids of tokens, or belongs to the tokenizer in another way."""
    return key in _TOKEN_KEYS or key.endswith(_TOKEN_ENDS)


def with_token_ids(facts: Mapping[str, Any], owner: Mapping[str, Any], depth: int = DEPTH) -> dict[str, Any]:
    """The content of a config.json with the token ids of another, the tokenizer's `owner`, down to `depth` levels.

    Ids that the owner does not have are left out.
    """
    merged: dict[str, Any] = {}
    for key, value in facts.items():
        if is_token_key(key):
            if key in owner:
                merged[key] = owner[key]
        elif isinstance(value, Mapping) and depth:
            nested = owner.get(key)
            merged[key] = with_token_ids(value, nested if isinstance(nested, Mapping) else {}, depth - 1)
        else:
            merged[key] = value
    for key, value in owner.items():
        if key not in merged and (is_token_key(key) or (key in _NESTED and isinstance(value, Mapping))):
            merged[key] = value
    return merged


def within(facts: Mapping[str, Any], rows: int, depth: int = DEPTH) -> dict[str, Any]:
    """The content of a config.json without the ids of special tokens that an embedding of `rows` rows lacks."""
    narrowed: dict[str, Any] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping) and depth:
            narrowed[key] = within(value, rows, depth - 1)
        elif not is_token_key(key) or all(index < rows for index in _ids(value)):
            narrowed[key] = value
    return narrowed


def token_ids(facts: Mapping[str, Any], depth: int = DEPTH) -> Iterator[tuple[str, int]]:
    """The key and id of every special token in a configuration."""
    for key, value in facts.items():
        if is_token_key(key):
            yield from ((key, index) for index in _ids(value))
        elif isinstance(value, Mapping) and depth:
            yield from token_ids(value, depth - 1)


def _ids(value: Any, depth: int = DEPTH) -> Iterator[int]:
    if isinstance(value, bool):
        return
    if isinstance(value, int):
        yield value
    elif isinstance(value, list) and depth:
        for item in value:
            yield from _ids(item, depth - 1)
