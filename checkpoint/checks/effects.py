"""What a difference between two configurations does to models that are merged, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

SHAPES = "their tensors have other shapes"
SLOPE = 1e-3  # mean square of a vector for which the effect of a norm's eps is told
# By the last part of a key: what it is called, and what a difference does.
EFFECTS: Mapping[str, tuple[str, str]] = {
    "num_hidden_layers": ("number of layers", "layers of one have no counterpart in the other"),
    "hidden_size": ("width", SHAPES),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim"), ("number of neurons", SHAPES)),
    "moe_intermediate_size": ("number of neurons of an expert", SHAPES),
    "shared_expert_intermediate_size": ("number of neurons of the shared expert", SHAPES),
    "num_attention_heads": ("number of heads", "the same rows of a matrix belong to other heads"),
    "num_key_value_heads": ("number of keys and values", "other queries share a key"),
    "head_dim": ("size of heads", "the same rows of a matrix belong to other heads"),
    "num_local_experts": ("number of experts", "experts of one have no counterpart in the other"),
    "num_experts": ("number of experts", "experts of one have no counterpart in the other"),
    "num_experts_per_tok": ("number of experts that a token uses", "a merge would mix what so many experts add up to"),
    "max_position_embeddings": ("context length", SHAPES),
    "pad_token_id": (
        "id of padding",
        "positions are counted from it, so that both read them by other rows",
    ),
    "position_embedding_type": ("position encoding", "queries and keys say positions in other ways"),
    "rope_theta": (
        "base of the rotary position encoding",
        "positions turn queries and keys by other angles, so that the attention of one reads distances of the other "
        "wrongly",
    ),
    "rope_type": ("scaling of the rotary position encoding", "positions turn queries and keys by other angles"),
    "factor": ("factor by which rotary positions are scaled", "positions turn queries and keys by other angles"),
    "partial_rotary_factor": ("share of a head that positions rotate", "they rotate other entries of queries and keys"),
    "rope_parameters": ("rotary position encoding", "positions turn queries and keys by other angles"),
    "sliding_window": ("window of attention", "one attends to tokens that the other does not see"),
    "layer_types": ("kind of attention by layer", "one attends to tokens that the other does not see"),
    "final_logit_softcapping": ("cap of the logits", "the outputs of the two are on other scales"),
    "attn_logit_softcapping": ("cap of the attention scores", "attention is sharp to other degrees"),
    "query_pre_attn_scalar": ("scale of the attention scores", "attention is sharp to other degrees"),
    "scale_attn_weights": ("scale of the attention scores", "attention is sharp to other degrees"),
    "attention_bias": ("bias of attention", "tensors of one have no counterpart in the other"),
    "mlp_bias": ("bias of the MLP", "tensors of one have no counterpart in the other"),
    "use_parallel_residual": ("order of attention and MLP", "the MLP of one reads what the other's attention wrote"),
}
FALLBACK = "only models of one shape and function can be merged"


def label_of(key: str, public: str) -> str:
    """What a key is called; `public` is its standard name."""
    return EFFECTS[_last(public)][0] if _last(public) in EFFECTS else key


def effect_of(public: str) -> str:
    """What a difference in the value of a key does."""
    name = _last(public)
    return f"{EFFECTS[name][1]}; {FALLBACK}" if name in EFFECTS else FALLBACK


def effect_of_rounding(a: object, b: object) -> str:
    """What another number does that keeps norms from dividing by zero, as far as it can be told from it alone."""
    if not isinstance(a, (int, float)) or not isinstance(b, (int, float)):
        return ""
    low, high = sorted((float(a), float(b)))
    change = ((SLOPE + high) / (SLOPE + max(0.0, low))) ** 0.5 - 1
    size = "less than 0.1%" if change < 1e-3 else f"{change:.1%}"
    return f", by which norms scale a vector with a mean square of {SLOPE:g} by {size} more or less"


def flattened(key: str, value: object) -> Iterator[tuple[str, Any]]:
    """A key and its value; of a dictionary, as that of rotary positions, one for every entry, with a dot in it."""
    if isinstance(value, Mapping):
        for inner, content in value.items():
            yield from flattened(f"{key}.{inner}", content)
    else:
        yield key, value


def _last(key: str) -> str:
    return key.rpartition(".")[2]
