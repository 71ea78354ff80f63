"""The symmetries of GPT-NeoX, as the Pythias (Black et al. 2022, arXiv 2204.06745; Biderman et al. 2023, 2304.01373).

Two norms may read the same stream. Query, key and value are interleaved head by head, and lie along the first axis.
Positions rotate a part of queries and keys, so that less acts inside heads, and a key bias drops out only in part.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ..groups import Matrices, OrthogonalKeepingOnes, Permutation
from ..rotary import RotaryMatrices
from ..symmetry import Activation, Attention, Axis, Family, Head, LinearMap, Norm, Piece, Reader, Space, Vanishing, View

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
    if isinstance(config, SimpleNamespace):
        raise TypeError("the content of a file")
    width, heads, hidden = config.hidden_size, config.num_attention_heads, config.intermediate_size
    size = width // heads
    rotated = int(size * config.rope_parameters["partial_rotary_factor"])
    tokens, stream, scale = Axis(size=config.vocab_size), Axis(("stream",)), Axis(("stream",), scale=True)

    spaces = {"stream": Space(OrthogonalKeepingOnes(width))}
    pieces = {"embed": Piece("gpt_neox.embed_in.weight", (tokens, stream))}
    norms, attentions, vanishing, matrices, maps = [], [], [], [], []
    activations = [Activation("stream", "lm_head", "input")]
    writers = [("embed", 1)]

    def norm(name: str, parameter: str, *readers: Reader) -> None:
        pieces[name] = Piece(f"{parameter}.weight", (scale,))
        pieces[f"{name}.bias"] = Piece(f"{parameter}.bias", (stream,))
        norms.append(Norm(name, f"{name}.bias", readers))

    for layer in range(config.num_hidden_layers):
        prefix = f"gpt_neox.layers.{layer}"
        space = {name: f"{layer}.{name}" for name in ("heads", "qk", "ov", "mlp")}
        spaces |= {
            space["heads"]: Space(Permutation(heads)),
            space["qk"]: Space(RotaryMatrices(size, heads, rotated), inside=space["heads"]),
            space["ov"]: Space(Matrices(size, heads), inside=space["heads"]),
            space["mlp"]: Space(Permutation(hidden)),
        }
        query, key = (Axis((space["heads"], space["qk"]), dual=dual) for dual in (False, True))
        value, output = (Axis((space["heads"], space["ov"]), dual=dual) for dual in (False, True))
        neurons = Axis((space["mlp"],))
        views = [View(0, part * size, (part + 1) * size, runs=heads) for part in range(3)]
        biased = {"fc", "proj", *(("q", "k", "v", "o") if config.attention_bias else ())}
        linear = {
            "q": (f"{prefix}.attention.query_key_value", query, stream, views[0]),
            "k": (f"{prefix}.attention.query_key_value", key, stream, views[1]),
            "v": (f"{prefix}.attention.query_key_value", value, stream, views[2]),
            "o": (f"{prefix}.attention.dense", stream, output, None),
            "fc": (f"{prefix}.mlp.dense_h_to_4h", neurons, stream, None),
            "proj": (f"{prefix}.mlp.dense_4h_to_h", stream, neurons, None),
        }
        for name, (module, rows, columns, view) in linear.items():
            pieces[f"{layer}.{name}"] = Piece(f"{module}.weight", (rows, columns), view)
            if name in biased:
                pieces[f"{layer}.{name}.bias"] = Piece(f"{module}.bias", (rows,), view)
            matrices.append(f"{layer}.{name}")
        maps += [LinearMap(module, 1) for module in dict.fromkeys(module for module, *_ in linear.values())]
        reads = {
            name: Reader(f"{layer}.{name}", 1, f"{layer}.{name}.bias" if name in biased else None)
            for name in ("q", "k", "v", "fc")
        }
        norm(f"{layer}.before attention", f"{prefix}.input_layernorm", reads["q"], reads["k"], reads["v"])
        norm(f"{layer}.before mlp", f"{prefix}.post_attention_layernorm", reads["fc"])
        if config.attention_bias:
            attentions.append(Attention(f"{layer}.v.bias", f"{layer}.o", 1, f"{layer}.o.bias"))
            vanishing.append(Vanishing(f"{layer}.k.bias", View(0, rotated, size, runs=heads)))
        writers += [
            (f"{layer}.{name}", 0) for name in ("o", "o.bias", "proj", "proj.bias") if f"{layer}.{name}" in pieces
        ]
        outputs = [View(-1, part * size, (part + 1) * size, runs=heads) for part in range(2)]
        activations += [
            Activation("stream", f"{prefix}.attention.query_key_value", "input"),
            *(Activation(space["qk"], f"{prefix}.attention.query_key_value", "output", view) for view in outputs),
            Activation(space["ov"], f"{prefix}.attention.dense", "input"),
            Activation("stream", f"{prefix}.mlp.dense_h_to_4h", "input"),
            Activation(space["mlp"], f"{prefix}.mlp.dense_4h_to_h", "input"),
        ]
    norm("last", "gpt_neox.final_layer_norm", Reader("head", 1))
    head = Head("head", Piece("lm_head.weight", (tokens, stream)), LinearMap("lm_head", 1))
    tied = Family(
        prefix="gpt_neox",
        stream="stream",
        spaces=spaces,
        pieces=pieces,
        norms=tuple(norms),
        attentions=tuple(attentions),
        vanishing=tuple(vanishing),
        writers=tuple(writers),
        embedding="embed",
        positions=None,
        unembedding=head,
        tied=True,
        matrices=tuple(matrices),
        activations=tuple(activations),
        maps=tuple(maps),
        configuration={key: getattr(config, key) for key in CONFIGURATION},
        rounding=frozenset({"layer_norm_eps"}),
        buffers=r"\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$",
    )
    return tied if config.tie_word_embeddings else tied.untied()
