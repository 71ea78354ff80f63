"""The symmetries of Phi 1 and 2 (Gunasekar et al. 2023, arXiv 2306.11644; the transformers implementation).

One LayerNorm feeds attention and MLP, which add to the stream side by side. Positions rotate a part of heads.
"""

from __future__ import annotations

from typing import Any

from ...checkpoint.errors import UnsupportedFamily
from ..groups import OrthogonalKeepingOnes
from ..symmetry import Family
from ..table_entries import Axis, Piece
from .blocks import BUFFERS, Blocks
from .plain_file import require_built

# What the forward pass reads of the configuration.
CONFIGURATION = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "qk_layernorm",
    "rope_parameters",
)


def phi(config: Any) -> Family:
    """The symmetry table of a Phi: residual stream, MLP neurons, groups of heads, and the inside of heads.

    Raises UnsupportedFamily for one that normalises queries and keys; TypeError for the content of a file, which may
    leave out what transformers fills in.
    """
    require_built(config)
    if config.qk_layernorm:
        raise UnsupportedFamily("a Phi that normalises queries and keys (qk_layernorm) is not supported")
    width, heads = config.hidden_size, config.num_attention_heads
    size = getattr(config, "head_dim", None) or width // heads
    blocks = Blocks(OrthogonalKeepingOnes(width), config.vocab_size, layer_norms=True)
    blocks.embedding("model.embed_tokens.weight")
    for layer in range(config.num_hidden_layers):
        name, module = f"layers.{layer}", f"model.layers.{layer}"
        attending = blocks.attention(
            name,
            f"{module}.self_attn",
            heads=heads,
            keys=config.num_key_value_heads,
            size=size,
            rotated=int(size * config.rope_parameters["partial_rotary_factor"]),
            names=("q_proj", "k_proj", "v_proj", "dense"),
            biases=("q", "k", "v", "o"),
        )
        reading = blocks.mlp(name, f"{module}.mlp.fc1", f"{module}.mlp.fc2", config.intermediate_size)
        blocks.norm(f"{name}.norm", f"{module}.input_layernorm", [*attending, *reading])
    blocks.pieces["unembedding.bias"] = Piece("lm_head.bias", (Axis(size=config.vocab_size),))
    blocks.norm("last", "model.final_layernorm", ["unembedding"])
    return blocks.family(
        tied=bool(config.tie_word_embeddings),
        prefix="model",
        configuration={key: getattr(config, key) for key in CONFIGURATION} | {"head_dim": size},
        rounding=frozenset({"layer_norm_eps"}),
        buffers=BUFFERS,
    )
