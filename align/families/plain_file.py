"""Configuration files that say all of a model, so that transformers, which takes seconds to import, need not be asked.

A file may leave out what is the default, use older names, or hold values that transformers refuses. A table that is
made from the content of a file stops with a TypeError at anything but the usual; then transformers reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

ACTIVATIONS = ("gelu_new", "gelu", "gelu_pytorch_tanh", "relu", "silu", "tanh")
DTYPES = ("float32", "float16", "bfloat16", None)
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)
FLAGS = ("tie_word_embeddings", "use_cache", "attention_bias", "use_sliding_window")
SHARES = ("rms_norm_eps", "initializer_range", "attention_dropout")
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# Keys that change nothing of how a model is built.
OTHER = ("model_type", "architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path")
# Keys of no architecture, which tools leave behind.
INERT = (
    *("unk_token_id", "_model_name_or_path", "is_llama_config", "rope_interleaved", "unsloth_version", "unsloth_fixed"),
    "_attn_implementation_autoset",
)
FULL = "full_attention"


def require_built(config: object) -> None:
    """Raise TypeError for the content of a file: of most architectures, transformers fills in what it leaves out."""
    if isinstance(config, SimpleNamespace):
        raise TypeError("the content of a file")


@dataclass(frozen=True)
class PlainFile:
    """What a file of a rotary architecture has to say to be taken at its word: all sizes, whether embeddings are tied,
    and the `required` keys; of the `optional` ones what it likes.
    """

    required: Sequence[str] = ()
    optional: Sequence[str] = ()

    def require(self, facts: Mapping[str, Any]) -> None:
        """Raise TypeError for a file that leaves something out, or says something that is not usual."""
        known = {*SIZES, *FLAGS, *SHARES, *IDS, *OTHER, *INERT, *self.required, *self.optional}
        known |= {"hidden_act", "rope_parameters", "rope_theta", "rope_scaling", "pretraining_tp"}
        missing = {*SIZES, "tie_word_embeddings", *self.required} - facts.keys()
        usual = (
            not missing
            and facts.keys() <= known
            and all(_is_size(facts[key]) for key in SIZES)
            and all(type(facts[key]) is bool for key in FLAGS if key in facts)
            and all(type(facts[key]) is float and 0 <= facts[key] <= 1 for key in SHARES if key in facts)
            and all(_is_id(facts.get(key), facts["vocab_size"], several=key == "eos_token_id") for key in IDS)
            and facts.get("hidden_act", ACTIVATIONS[0]) in ACTIVATIONS
            and all(facts.get(key) in DTYPES for key in ("dtype", "torch_dtype"))
            and all(type(name) is str for name in _listed(facts.get("architectures")))
            and all(type(facts.get(key, "")) is str for key in ("transformers_version", "_name_or_path"))
            and type(facts.get("pretraining_tp", 1)) is int
            and facts.get("pretraining_tp", 1) == 1
            and type(facts.get("mlp_bias", False)) is bool
            and all(isinstance(facts.get(key), (bool, int, str, type(None))) for key in INERT)
            and _has_whole_heads(facts)
            and _turns_plainly(facts)
            and _windows(facts)
        )
        if not usual:
            raise TypeError("the content of a file that transformers has to read")


def _is_size(value: object) -> bool:
    return type(value) is int and value > 0


def _is_id(value: Any, vocabulary: int, *, several: bool) -> bool:
    if several and isinstance(value, list):
        return all(_is_id(one, vocabulary, several=False) and one is not None for one in value)
    return value is None or (type(value) is int and 0 <= value < vocabulary)


def _listed(value: object) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value, None]  # None is no name


def _has_whole_heads(facts: Mapping[str, Any]) -> bool:
    heads, keys = facts["num_attention_heads"], facts["num_key_value_heads"]
    whole = facts["hidden_size"] % heads == 0 and heads % keys == 0
    size = facts.get("head_dim", facts["hidden_size"] // heads)
    return whole and _is_size(size) and size % 2 == 0


def _turns_plainly(facts: Mapping[str, Any]) -> bool:
    """Whether all of every head is rotated, by angles that nothing scales."""
    said = facts.get("rope_parameters")
    if said is None:
        base, plain = facts.get("rope_theta", 10000.0), facts.get("rope_scaling") is None
    else:
        plain = (
            isinstance(said, dict)
            and said.keys() <= {"rope_theta", "rope_type"}
            and not {
                "rope_theta",
                "rope_scaling",
            }
            & facts.keys()
        )
        base = said.get("rope_theta") if plain else None
        plain = plain and said.get("rope_type") == "default"
    return bool(plain) and type(base) in (int, float) and base > 0


def _windows(facts: Mapping[str, Any]) -> bool:
    """Whether windows of attention, where a file speaks of them, are plain."""
    window, layers = facts.get("sliding_window"), facts.get("layer_types")
    within = window is None or _is_size(window)
    kinds = layers is None or (
        isinstance(layers, list) and len(layers) == facts["num_hidden_layers"] and all(kind == FULL for kind in layers)
    )
    most = facts.get("max_window_layers", 0)
    return within and kinds and type(most) is int and most >= 0 and not facts.get("use_sliding_window", False)
