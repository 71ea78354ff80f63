"""A second table, for these tests: GPT-NeoX, whose every part is laid out in another way than GPT-2's.

Two norms read the same stream; query, key and value are interleaved head by head, and lie along the first axis; the
unembedding is its own; positions are rotary, so that less acts inside heads, and a key bias drops out only in part.
"""

from __future__ import annotations

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from isthmus.align.groups import Matrices, OrthogonalKeepingOnes, Permutation
from isthmus.align.rotary import RotaryMatrices
from isthmus.align.symmetry import (
    Activation,
    Attention,
    Axis,
    Family,
    Head,
    LinearMap,
    Norm,
    Piece,
    Reader,
    Space,
    Vanishing,
    View,
)


def tiny_neox(seed: int = 0, **changes: object) -> GPTNeoXForCausalLM:
    """A random GPT-NeoX; norms and biases are random, too."""
    facts = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    facts |= {"intermediate_size": 64, "max_position_embeddings": 32, "rotary_pct": 0.5, "hidden_act": "gelu"}
    torch.manual_seed(seed)
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**{**facts, "bos_token_id": 0, "eos_token_id": 0, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                parameter.copy_(centre + 0.3 * torch.randn_like(parameter))
            else:
                parameter.mul_(5)
    return model


def gpt_neox(config: GPTNeoXConfig) -> Family:
    """The symmetry table of a GPT-NeoX with parallel residual streams."""
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
            pieces[f"{layer}.{name}.bias"] = Piece(f"{module}.bias", (rows,), view)
            matrices.append(f"{layer}.{name}")
        maps += [LinearMap(module, 1) for module in dict.fromkeys(module for module, *_ in linear.values())]
        reads = {name: Reader(f"{layer}.{name}", 1, f"{layer}.{name}.bias") for name in ("q", "k", "v", "fc")}
        norm(f"{layer}.before attention", f"{prefix}.input_layernorm", reads["q"], reads["k"], reads["v"])
        norm(f"{layer}.before mlp", f"{prefix}.post_attention_layernorm", reads["fc"])
        attentions.append(Attention(f"{layer}.v.bias", f"{layer}.o", 1, f"{layer}.o.bias"))
        vanishing.append(Vanishing(f"{layer}.k.bias", View(0, rotated, size, runs=heads)))
        writers += [(f"{layer}.{name}", 0) for name in ("o", "o.bias", "proj", "proj.bias")]
        columns = [View(-1, part * size, (part + 1) * size, runs=heads) for part in range(2)]
        activations += [
            Activation("stream", f"{prefix}.attention.query_key_value", "input"),
            *(Activation(space["qk"], f"{prefix}.attention.query_key_value", "output", view) for view in columns),
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
        rounding=frozenset({"layer_norm_eps"}),
        buffers=r"\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$",
    )
    return tied if config.tie_word_embeddings else tied.untied()
