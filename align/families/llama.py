"""The symmetries of Llama (Touvron et al. 2023, arXiv 2302.13971) and of what is built like it.

Llama 1 to 3, SmolLM2; Mistral; Qwen2, whose queries, keys and values have biases; Qwen3, which normalises queries and
keys; Phi 3, which makes queries, keys and values by one map, gates and values of the MLP by another, and may rotate a
part of heads; Gemma, whose norms store their scale less 1. Gemma 2 and 3 and OLMo 2 normalise what attention and MLP
write to the stream, too: such norms cannot be folded, so that the stream has signed permutations only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Literal

from ..groups import Orthogonal, SignedPermutation
from ..symmetry import Family
from ..table_entries import View
from .blocks import BUFFERS, NAMES, Blocks
from .plain_file import PlainFile, require_built

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
    "hidden_activation",
    "query_pre_attn_scalar",
    "final_logit_softcapping",
    "attn_logit_softcapping",
)
WINDOWS = ("sliding_window", "max_window_layers", "layer_types")
ALL = ("q", "k", "v", "o")
# Names of the norms before attention, after it, before the MLP and after it.
BEFORE = ("input_layernorm", None, "post_attention_layernorm", None)
AROUND = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
AFTER = (None, "post_attention_layernorm", None, "post_feedforward_layernorm")
LIMITS = (
    ", as far as it goes: norms write to the residual stream of such models, so that its directions are reordered and "
    "flipped, but not rotated"
)


def llama(config: Any) -> Family:
    """The symmetry table of a Llama: residual stream, gated neurons, groups of heads that share a key, and the inside
    of heads.

    `config` may also be the content of a file that says all (`isthmus.align.families.plain_file`), as for Mistral,
    Qwen2 and Qwen3. Raises TypeError for that of any other; so do all of these.
    """
    has_bias = bool(getattr(config, "mlp_bias", False))
    return decoder(config, biases(config), mlp_bias=has_bias, file=PlainFile(optional=("head_dim", "mlp_bias")))


def mistral(config: Any) -> Family:
    """The symmetry table of a Mistral: a Llama's, without biases."""
    return decoder(config, (), file=PlainFile(optional=("head_dim", "sliding_window")))


def qwen2(config: Any) -> Family:
    """The symmetry table of a Qwen2: a Llama's, with biases for queries, keys and values."""
    return decoder(config, ALL[:3], file=PlainFile(optional=("head_dim", *WINDOWS)))


def qwen3(config: Any) -> Family:
    """The symmetry table of a Qwen3: a Llama's, with norms of queries and keys, under which only signs are left."""
    return decoder(
        config, biases(config), normalised="by head", file=PlainFile(required=("head_dim",), optional=WINDOWS)
    )


def phi3(config: Any) -> Family:
    """The symmetry table of a Phi 3: a Llama's, with fused maps and, in some, positions that rotate a part of heads."""
    return decoder(config, (), fused=True)


def gemma(config: Any) -> Family:
    """The symmetry table of a Gemma: a Llama's, with norms that scale by 1 + w."""
    return decoder(config, biases(config), neutral=0.0)


def gemma2(config: Any) -> Family:
    """The symmetry table of a Gemma 2: a Gemma's, with norms of what is written to the stream."""
    return decoder(config, biases(config), neutral=0.0, norms=AROUND)


def gemma3_text(config: Any) -> Family:
    """The symmetry table of a Gemma 3 without images: a Gemma 2's, with norms of queries and keys."""
    return decoder(config, biases(config), neutral=0.0, norms=AROUND, normalised="by head")


def olmo2(config: Any) -> Family:
    """The symmetry table of an OLMo 2: norms of what is written to the stream, none of what is read from it, and norms
    of the queries and keys of all heads.
    """
    return decoder(config, biases(config), norms=AFTER, normalised="all heads")


def biases(config: Any) -> Sequence[str]:
    """Those of queries, keys, values and the output of attention that have biases where a configuration says so."""
    return ALL if getattr(config, "attention_bias", False) else ()


def decoder(
    config: Any,
    biases: Sequence[str],
    *,
    neutral: float = 1.0,
    norms: Sequence[str | None] = BEFORE,
    normalised: Literal["never", "by head", "all heads"] = "never",
    fused: bool = False,
    mlp_bias: bool = False,
    mlp: Callable[[Blocks, int], list[str]] | None = None,
    configuration: Sequence[str] = CONFIGURATION,
    file: PlainFile | None = None,
) -> Family:
    """The table; `norms` are those before attention, after it, before the MLP and after it.

    `fused` is whether one map makes queries, keys and values, and another gates and values of the MLP; `mlp` adds
    what stands in the place of the gated MLP of a layer, and returns the maps that read the stream.

    Raises TypeError for the content of a file that is not what is usual in a `file` of the architecture.
    """
    said = isinstance(config, SimpleNamespace)
    if file is None:
        require_built(config)
    elif said:
        file.require(vars(config))
    width, heads, keys = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
    size = getattr(config, "head_dim", None) or width // heads
    share = (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor", 1.0)
    before_attention, after_attention, before_mlp, after_mlp = norms
    group = SignedPermutation(width) if after_mlp else Orthogonal(width)
    blocks = Blocks(group, config.vocab_size, neutral=neutral)
    blocks.embedding("model.embed_tokens.weight")
    ends = (0, heads * size, (heads + keys) * size, (heads + 2 * keys) * size)
    views = {name: View(0, start, stop) for name, start, stop in zip("qkv", ends[:-1], ends[1:], strict=True)}
    for layer in range(config.num_hidden_layers):
        name, module = f"layers.{layer}", f"model.layers.{layer}"
        attending = blocks.attention(
            name,
            f"{module}.self_attn",
            heads=heads,
            keys=keys,
            size=size,
            rotated=int(size * share),
            names=("qkv_proj", "qkv_proj", "qkv_proj", "o_proj") if fused else NAMES,
            views=views if fused else {},
            biases=biases,
            normalised=normalised,
        )
        if mlp is not None:
            reading = mlp(blocks, layer)
        else:
            one = "gate_up_proj" if fused else None
            reading = blocks.gated_mlp(name, f"{module}.mlp", config.intermediate_size, fused=one, bias=mlp_bias)
        for norm, readers in (
            (before_attention, attending),
            (after_attention, []),
            (before_mlp, reading),
            (after_mlp, []),
        ):
            if norm is not None:
                blocks.norm(f"{name}.{norm}", f"{module}.{norm}", readers)
    blocks.norm("last", "model.norm", ["unembedding"])
    return blocks.family(
        tied=bool(config.tie_word_embeddings),
        capped=getattr(config, "final_logit_softcapping", None) is not None,
        prefix="model",
        configuration={key: getattr(config, key) for key in configuration if hasattr(config, key)},
        rounding=frozenset({"rms_norm_eps"}),
        limits=LIMITS if after_mlp else "",
        buffers=BUFFERS,
        sound=said,
    )
