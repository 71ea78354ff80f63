"""The symmetries of OPT (Zhang et al. 2022, arXiv 2205.01068): GPT-2's, and with ReLU the scale of every neuron."""

from __future__ import annotations

from typing import Any

from ...checkpoint.errors import UnsupportedFamily
from ..groups import OrthogonalKeepingOnes
from ..scales import PositiveScales
from ..symmetry import Family
from .blocks import Blocks
from .plain_file import require_built

# What the forward pass reads of the configuration.
CONFIGURATION = (
    "hidden_size",
    "ffn_dim",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "activation_function",
    "do_layer_norm_before",
    "_remove_final_layer_norm",
    "word_embed_proj_dim",
    "enable_bias",
    "layer_norm_elementwise_affine",
)
OFFSET = 2  # rows of the table of positions before the first position's


def opt(config: Any) -> Family:
    """The symmetry table of an OPT: residual stream, MLP neurons and their scales, heads, and the inside of heads.

    Raises UnsupportedFamily for one that normalises after the sum, as OPT-350m, for one with embeddings of another
    width, and for one without a last norm or without scales of norms; TypeError for the content of a file, which may
    leave out what transformers fills in.
    """
    require_built(config)
    unsupported = {
        "that normalises after every sum (do_layer_norm_before)": not config.do_layer_norm_before,
        "with embeddings of another width (word_embed_proj_dim)": config.word_embed_proj_dim != config.hidden_size,
        "without a last norm (_remove_final_layer_norm)": config._remove_final_layer_norm,
        "whose norms have no scales (layer_norm_elementwise_affine)": not config.layer_norm_elementwise_affine,
    }
    for what, applies in unsupported.items():
        if applies:
            raise UnsupportedFamily(f"an OPT {what} is not supported")
    width, heads, hidden = config.hidden_size, config.num_attention_heads, config.ffn_dim
    blocks = Blocks(OrthogonalKeepingOnes(width), config.vocab_size, layer_norms=True)
    blocks.embedding("model.decoder.embed_tokens.weight")
    blocks.positions = "positions"
    blocks.table("positions", "model.decoder.embed_positions.weight", config.max_position_embeddings + OFFSET)
    scales = PositiveScales(1, hidden) if config.activation_function == "relu" else None
    bias = bool(config.enable_bias)
    for layer in range(config.num_hidden_layers):
        name, module = f"layers.{layer}", f"model.decoder.layers.{layer}"
        attending = blocks.attention(
            name,
            f"{module}.self_attn",
            heads=heads,
            keys=heads,
            size=width // heads,
            rotated=0,
            names=("q_proj", "k_proj", "v_proj", "out_proj"),
            biases=("q", "k", "v", "o") if bias else (),
        )
        reading = blocks.mlp(name, f"{module}.fc1", f"{module}.fc2", hidden, bias=bias, scales=scales)
        blocks.norm(f"{name}.before attention", f"{module}.self_attn_layer_norm", attending)
        blocks.norm(f"{name}.before mlp", f"{module}.final_layer_norm", reading)
    blocks.norm("last", "model.decoder.final_layer_norm", ["unembedding"])
    return blocks.family(
        tied=bool(config.tie_word_embeddings),
        prefix="model",
        configuration={key: getattr(config, key) for key in CONFIGURATION},
    )
