"""Token ids in configurations: they belong to a tokenizer, and go with it.

config.json and generation_config.json name tokens by their ids (the end, the padding, what is forced or never
written), at the top and inside nested settings. An id of one model means another token, or none, under the tokenizer of
another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

DEPTH = 8  # levels of settings inside settings that are looked at
# Keys without a telling end that hold ids of tokens, or the tokens themselves.
_TOKEN_KEYS = frozenset(
    {
        "suppress_tokens",
        "begin_suppress_tokens",
        "bad_words_ids",
        "force_words_ids",
        "forced_decoder_ids",
        "forced_bos_token",
        "forced_eos_token",
        "constraints",
        "sequence_bias",
        "stop_strings",
        "stop_token_ids",
        "stop_words_ids",
        "lang_to_id",
        "task_to_id",
        "tokenizer_class",
        "eos_token",
        "bos_token",
        "pad_token",
        "prefix",
    }
)
_TOKEN_ENDS = ("_token_id", "_token_ids", "_token_index", "_tokens_ids", "_tokens_id")
# Settings that name tokens inside, which other settings never do.
_NESTED = ("generation_config", "generation", "task_specific_params")


def is_token_key(key: str) -> bool:
    """Whether a key of a configuration holds ids of tokens, or says how text becomes tokens."""
    return key in _TOKEN_KEYS or key.endswith(_TOKEN_ENDS)


def with_token_ids(facts: Mapping[str, Any], owner: Mapping[str, Any], depth: int = DEPTH) -> dict[str, Any]:
    """The content of a config.json with the token ids of another, the tokenizer's `owner`, also `depth` levels down.

    Ids that the owner does not have are left out.
    """
    merged: dict[str, Any] = {}
    for key, value in facts.items():
        if is_token_key(key):
            if key in owner:
                merged[key] = owner[key]
        elif isinstance(value, Mapping) and depth:
            inside = owner.get(key)
            merged[key] = with_token_ids(value, inside if isinstance(inside, Mapping) else {}, depth - 1)
        else:
            merged[key] = value
    for key, value in owner.items():
        if key not in merged and (is_token_key(key) or (key in _NESTED and isinstance(value, Mapping))):
            merged[key] = value
    return merged


def within(facts: Mapping[str, Any], rows: int, depth: int = DEPTH) -> dict[str, Any]:
    """The content of a config.json without ids of special tokens that an embedding of `rows` rows has no row for."""
    narrowed: dict[str, Any] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping) and depth:
            narrowed[key] = within(value, rows, depth - 1)
        elif not is_token_key(key) or all(index < rows for index in _ids(value)):
            narrowed[key] = value
    return narrowed


def token_ids(facts: Mapping[str, Any], depth: int = DEPTH) -> Iterator[tuple[str, int]]:
    """Every id of a special token that a configuration names, with its key."""
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
