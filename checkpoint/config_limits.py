"""Limits on the numbers in config.json that size something: layers, widths, vocabularies, experts.

They are checked before transformers builds a model from them. The limits lie far above what real models have: the
deepest have a few hundred layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from .errors import CorruptCheckpoint
from .untrusted_text import plain

DEPTH = 32  # of config.json
LAYERS, EXPERTS_OF_ALL_LAYERS, LABELS, COUNT = 1_000, 100_000, 100_000, 1_000_000
WIDTH, VOCABULARY, POSITIONS, WHOLE = 2**24, 2**23, 2**25, 2**63 - 1
# Every module of transformers needs these to be whole numbers from 1 on.
SIZES = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "n_inner", "intermediate_size", "ffn_dim"), WIDTH),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_key_value_heads", "head_dim"), WIDTH),
    **dict.fromkeys(("vocab_size", "n_vocab", "vocabulary_size"), VOCABULARY),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), POSITIONS),
}
# What every configuration of transformers has as true or false; which hidden states are given may be a list of numbers.
FLAGS = frozenset(
    {
        "output_hidden_states",
        "output_attentions",
        "return_dict",
        "use_cache",
        "tie_word_embeddings",
        "is_decoder",
        "is_encoder_decoder",
        "add_cross_attention",
    }
)
# Numbers of unlisted keys that start like a count: the limit by a part of the key.
_KINDS = {"label": LABELS, "layer": LAYERS, "expert": COUNT, "position": POSITIONS, "vocab": VOCABULARY}
_STATISTICS = re.compile(r"param|token|step|sample|flop|word|embed")  # counts that size nothing


def require_numbers(facts: Mapping[str, Any], model: str) -> None:
    """Check every number of config.json that sizes something against its limit, and every flag, in nested ones too.

    Raises CorruptCheckpoint for a number that is too large, for a size that is not a whole number from 1 on, and for a
    flag that is neither true nor false.
    """
    layers = experts = 1
    for key, value in _entries(facts, model):
        limit = _limit(key)
        if key in SIZES and value is not None and (type(value) is not int or value < 1):
            raise CorruptCheckpoint(
                f"config.json of '{model}' says {plain(key, 60)} = {plain(repr(value), 60)}: expected a whole number "
                "from 1"
            )
        if key in FLAGS and value is not None and not isinstance(value, int):
            raise CorruptCheckpoint(
                f"config.json of '{model}' says {plain(key, 60)} = {plain(repr(value), 60)}: expected true or false"
            )
        if isinstance(value, int) and abs(value) > limit:
            shown = str(value) if abs(value) < 2**64 else "a number of more than 64 bits"
            raise CorruptCheckpoint(
                f"config.json of '{model}' says {plain(key, 60)} = {shown}, and isthmus reads up to {limit:,}"
            )
        if isinstance(value, int) and limit == LAYERS:
            layers = max(layers, value)
        if isinstance(value, int) and "expert" in key:
            experts = max(experts, value)
    if layers * experts > EXPERTS_OF_ALL_LAYERS:
        raise CorruptCheckpoint(
            f"config.json of '{model}' says {layers} layers and {experts} experts, and isthmus reads up to "
            f"{EXPERTS_OF_ALL_LAYERS:,} experts in all layers"
        )


def require_tensors(facts: Mapping[str, Any], count: int, model: str) -> None:
    """Raise CorruptCheckpoint for more layers than the files hold tensors: building them would take minutes."""
    counts = (value for key, value in _entries(facts, model) if SIZES.get(key) == LAYERS)
    layers = max((value for value in counts if isinstance(value, int)), default=0)
    if layers > max(count, 1):
        raise CorruptCheckpoint(
            f"config.json of '{model}' says {layers} layers, and its files hold {count} tensors: fetch the model again"
        )


def _limit(key: str) -> int:
    """The largest number that a key may have."""
    if key in SIZES:
        return SIZES[key]
    word = key.lower()
    if word.endswith(("_id", "_ids", "seed")):
        return WHOLE
    if word.startswith(("num_", "n_")) or word.endswith(("layers", "labels", "experts", "_depth")):
        for part, limit in _KINDS.items():
            if part in word:
                return limit
        return WHOLE if _STATISTICS.search(word) else COUNT
    return WHOLE


def _entries(facts: Mapping[str, Any], model: str) -> Iterator[tuple[str, Any]]:
    """Every (key, value) of nested objects; the items of a list come with the key of the list."""
    todo: list[tuple[str, Any, int]] = [("", facts, 0)]
    while todo:
        key, value, depth = todo.pop()
        if depth > DEPTH:
            raise CorruptCheckpoint(
                f"config.json of '{model}' is nested more than {DEPTH} levels deep: repair the file, or fetch it again"
            )
        if isinstance(value, Mapping):
            if key in SIZES or key in FLAGS:
                yield key, value
            todo += [(str(inner), part, depth + 1) for inner, part in value.items()]
        elif isinstance(value, list):
            todo += [("" if key in SIZES else key, part, depth + 1) for part in value]
        else:
            yield key, value
