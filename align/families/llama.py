"""The symmetries of Llama (Touvron et al. 2023, arXiv 2302.13971) and of what is built like it.

Llama 1 to 3, SmolLM2; Mistral; Qwen2, whose queries, keys and values have biases; Qwen3, which normalises queries and
keys; Gemma, whose norms store their scale less 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ..groups import Orthogonal
from ..symmetry import Family
from .rotary_blocks import BUFFERS, Blocks

# What the forward pass reads of the configuration; of some of these architectures only.
CONFIGURATION = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "hidden_act",
    "rms_norm_eps",
    "rope_parameters",
    "attention_bias",
    "mlp_bias",
    "sliding_window",
    "layer_types",
    "use_bidirectional_attention",
)
ALL = ("q", "k", "v", "o")


def llama(config: Any) -> Family:
    """The symmetry table of a Llama: residual stream, gated neurons, groups of heads that share a key, and the inside
    of heads.

    Raises TypeError for the content of a file, which may leave out what transformers fills in; so do all of these.
    """
    return _family(config, ALL if _says(config, "attention_bias") else ())


def mistral(config: Any) -> Family:
    """The symmetry table of a Mistral: a Llama's, without biases."""
    return _family(config, ())


def qwen2(config: Any) -> Family:
    """The symmetry table of a Qwen2: a Llama's, with biases for queries, keys and values."""
    return _family(config, ALL[:3])


def qwen3(config: Any) -> Family:
    """The symmetry table of a Qwen3: a Llama's, with norms of queries and keys, under which only signs are left."""
    return _family(config, ALL if _says(config, "attention_bias") else (), normalised=True)


def gemma(config: Any) -> Family:
    """The symmetry table of a Gemma: a Llama's, with norms that scale by 1 + w."""
    return _family(config, ALL if _says(config, "attention_bias") else (), neutral=0.0)


def _says(config: Any, key: str) -> bool:
    return bool(getattr(config, key, False))


def _family(config: Any, biases: Sequence[str], *, neutral: float = 1.0, normalised: bool = False) -> Family:
    if isinstance(config, SimpleNamespace):
        raise TypeError("the content of a file")
    width, heads = config.hidden_size, config.num_attention_heads
    blocks = Blocks(Orthogonal(width), config.vocab_size, neutral=neutral)
    blocks.embedding("model.embed_tokens.weight")
    for layer in range(config.num_hidden_layers):
        name, module = f"layers.{layer}", f"model.layers.{layer}"
        readers = blocks.rotary_attention(
            name,
            f"{module}.self_attn",
            heads=heads,
            keys=config.num_key_value_heads,
            size=getattr(config, "head_dim", None) or width // heads,
            biases=biases,
            normalised=normalised,
        )
        blocks.norm(f"{name}.before attention", f"{module}.input_layernorm", readers)
        readers = blocks.gated_mlp(name, f"{module}.mlp", config.intermediate_size, bias=_says(config, "mlp_bias"))
        blocks.norm(f"{name}.before mlp", f"{module}.post_attention_layernorm", readers)
    blocks.norm("last", "model.norm", ["unembedding"])
    return blocks.family(
        tied=bool(config.tie_word_embeddings),
        prefix="model",
        vanishing=(),
        configuration={key: getattr(config, key) for key in CONFIGURATION if hasattr(config, key)},
        rounding=frozenset({"rms_norm_eps"}),
        buffers=BUFFERS,
    )
