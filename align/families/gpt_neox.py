"""The symmetries of GPT-NeoX, as the Pythias (Black et al. 2022, arXiv 2204.06745; Biderman et al. 2023, 2304.01373).

Two norms may read the same stream. Query, key and value are interleaved head by head, and lie along the first axis.
Positions rotate a part of queries and keys, so that less acts inside heads, and a key bias drops out only in part.
"""

from __future__ import annotations

from typing import Any

from ..groups import OrthogonalKeepingOnes
from ..symmetry import Family
from ..table_entries import View
from .blocks import Blocks
from .plain_file import require_built

# What the forward pass reads of the configuration.
CONFIGURATION = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "use_parallel_residual",
    "attention_bias",
    "rope_parameters",
)


def gpt_neox(config: Any) -> Family:
    """The symmetry table of a GPT-NeoX: residual stream, MLP neurons, heads, and the inside of heads.

    Raises TypeError for the content of a file, which may leave out what transformers fills in.
    """
    require_built(config)
    width, heads = config.hidden_size, config.num_attention_heads
    size = width // heads
    biased = ("q", "k", "v", "o") if config.attention_bias else ()
    blocks = Blocks(OrthogonalKeepingOnes(width), config.vocab_size, layer_norms=True)
    blocks.embedding("gpt_neox.embed_in.weight")
    for layer in range(config.num_hidden_layers):
        name, module = f"layers.{layer}", f"gpt_neox.layers.{layer}"
        attending = blocks.attention(
            name,
            f"{module}.attention",
            heads=heads,
            keys=heads,
            size=size,
            rotated=int(size * config.rope_parameters["partial_rotary_factor"]),
            names=("query_key_value", "query_key_value", "query_key_value", "dense"),
            views={one: View(0, part * size, (part + 1) * size, runs=heads) for part, one in enumerate("qkv")},
            biases=biased,
        )
        up, down = f"{module}.mlp.dense_h_to_4h", f"{module}.mlp.dense_4h_to_h"
        reading = blocks.mlp(name, up, down, config.intermediate_size)
        blocks.norm(f"{name}.before attention", f"{module}.input_layernorm", attending)
        blocks.norm(f"{name}.before mlp", f"{module}.post_attention_layernorm", reading)
    blocks.norm("last", "gpt_neox.final_layer_norm", ["unembedding"])
    return blocks.family(
        tied=bool(config.tie_word_embeddings),
        prefix="gpt_neox",
        configuration={key: getattr(config, key) for key in CONFIGURATION},
        rounding=frozenset({"layer_norm_eps"}),
        buffers=r"\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$",
    )
