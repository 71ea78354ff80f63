"""GPT-2's symmetries (Radford et al. 2019; the transformers implementation, whose Conv1D stores [in, out])."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ...checkpoint.errors import UnsupportedFamily
from ..groups import Matrices, OrthogonalKeepingOnes, Permutation
from ..symmetry import Family
from ..table_entries import Activation, Attention, Axis, Head, LinearMap, Norm, Piece, Reader, Space, Vanishing, View
from .plain_file import ACTIVATIONS, DTYPES

if TYPE_CHECKING:
    from transformers import GPT2Config

# What the forward pass reads of the configuration, beside n_inner.
CONFIGURATION = (
    "n_embd",
    "n_layer",
    "n_head",
    "n_positions",
    "activation_function",
    "layer_norm_epsilon",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
)
# Causal masks, which earlier versions of transformers stored as if they were weights.
BUFFERS = r"(^|\.)attn\.(bias|masked_bias)$"
# The types of what a configuration file may say; of anything else transformers is asked.
_NUMBER, _FLAG, _ID, _TEXT, _DICT = (int, float), (bool,), (int, type(None)), (str, type(None)), (dict, type(None))
FIELDS = {
    **dict.fromkeys(("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_ctx"), (int,)),
    **dict.fromkeys(("layer_norm_epsilon", "attn_pdrop", "embd_pdrop", "resid_pdrop", "initializer_range"), _NUMBER),
    **dict.fromkeys(("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"), _FLAG),
    **dict.fromkeys(("use_cache", "tie_word_embeddings", "add_cross_attention", "summary_use_proj"), _FLAG),
    **dict.fromkeys(("summary_proj_to_labels", "is_encoder_decoder"), _FLAG),
    **dict.fromkeys(("output_hidden_states", "output_attentions", "return_dict"), (bool, type(None))),
    **dict.fromkeys(("n_inner", "bos_token_id", "pad_token_id"), _ID),
    **dict.fromkeys(("activation_function", "summary_type"), (str,)),
    **dict.fromkeys(("summary_activation", "problem_type", "transformers_version"), _TEXT),
    **dict.fromkeys(("id2label", "label2id", "task_specific_params"), _DICT),
    "eos_token_id": (int, list, type(None)),
    "summary_first_dropout": _NUMBER,
    "architectures": (list, type(None)),
}
# Other names of the same keys: which of two counts, transformers knows.
ALIASES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
# Further keys, and values, with which transformers surely builds the model.
OTHER_KEYS = frozenset({"model_type", "dtype", "torch_dtype", "_name_or_path"})
UNUSUAL = ("problem_type", "id2label", "label2id", "is_encoder_decoder", "output_hidden_states", "output_attentions")


def gpt2(config: GPT2Config) -> Family:
    """The symmetry table of GPT-2: residual stream, MLP neurons, heads, and the inside of heads.

    `config` may also be what config.json says, which leaves out what is the default.

    Raises UnsupportedFamily for a GPT-2 with cross-attention, which has weights the table does not cover; TypeError for
    the content of a file that transformers may refuse.
    """
    if isinstance(config, SimpleNamespace):
        _require_plain(vars(config))
    if getattr(config, "add_cross_attention", False):
        raise UnsupportedFamily("a GPT-2 with cross-attention (add_cross_attention) is not supported")
    tied = _tied(config)
    return tied if getattr(config, "tie_word_embeddings", True) else tied.untied()


def _tied(config: GPT2Config) -> Family:
    """The table of a model whose embedding is its unembedding, too."""
    width, heads = config.n_embd, config.n_head
    hidden = getattr(config, "n_inner", None) or 4 * width
    tokens, stream = Axis(size=config.vocab_size), Axis(("residual",))

    spaces = {"residual": Space(OrthogonalKeepingOnes(width))}
    pieces = {
        "wte": Piece("transformer.wte.weight", (tokens, stream)),
        "wpe": Piece("transformer.wpe.weight", (Axis(size=config.n_positions), stream)),
    }
    norms, attentions, vanishing, matrices, maps = [], [], [], [], []
    activations = [Activation("residual", "lm_head", "input")]
    writers = [("wte", 1), ("wpe", 1)]

    def norm(name: str, *readers: Reader) -> None:
        pieces[name] = Piece(f"transformer.{name}.weight", (Axis(("residual",), scale=True),))
        pieces[f"{name}.bias"] = Piece(f"transformer.{name}.bias", (stream,))
        norms.append(Norm(name, f"{name}.bias", readers))

    for h in (f"h.{layer}" for layer in range(config.n_layer)):
        inside = Space(Matrices(width // heads, heads), inside=f"{h}.heads")
        spaces |= {f"{h}.heads": Space(Permutation(heads)), f"{h}.qk": inside, f"{h}.ov": inside}
        spaces[f"{h}.mlp"] = Space(Permutation(hidden))
        query, key = (Axis((f"{h}.heads", f"{h}.qk"), dual=dual) for dual in (False, True))
        value, output = (Axis((f"{h}.heads", f"{h}.ov"), dual=dual) for dual in (False, True))
        neurons = Axis((f"{h}.mlp",))
        views = [View(-1, part * width, (part + 1) * width) for part in range(3)]
        fused, projection = f"transformer.{h}.attn.c_attn", f"transformer.{h}.attn.c_proj"
        up, down = f"transformer.{h}.mlp.c_fc", f"transformer.{h}.mlp.c_proj"
        linear = {
            "q": (fused, stream, query, views[0]),
            "k": (fused, stream, key, views[1]),
            "v": (fused, stream, value, views[2]),
            "o": (projection, output, stream, None),
            "fc": (up, stream, neurons, None),
            "proj": (down, neurons, stream, None),
        }
        for name, (module, inputs, outputs, view) in linear.items():
            pieces[f"{h}.{name}"] = Piece(f"{module}.weight", (inputs, outputs), view)
            pieces[f"{h}.{name}.bias"] = Piece(f"{module}.bias", (outputs,), view)
            matrices.append(f"{h}.{name}")
        q, k, v, fc = (Reader(f"{h}.{name}", 0, f"{h}.{name}.bias") for name in ("q", "k", "v", "fc"))
        norm(f"{h}.ln_1", q, k, v)
        norm(f"{h}.ln_2", fc)
        attentions.append(Attention(f"{h}.v.bias", f"{h}.o", 0, f"{h}.o.bias"))
        vanishing.append(Vanishing(f"{h}.k.bias"))
        writers += [(f"{h}.o", 1), (f"{h}.o.bias", 0), (f"{h}.proj", 1), (f"{h}.proj.bias", 0)]
        activations += [
            Activation("residual", fused, "input"),
            *(Activation(f"{h}.qk", fused, "output", view) for view in views[:2]),
            Activation(f"{h}.ov", projection, "input"),
            Activation("residual", up, "input"),
            Activation(f"{h}.mlp", down, "input"),
        ]
        maps += [LinearMap(module, 0) for module in (fused, projection, up, down)]
    norm("ln_f", Reader("lm_head", 1))
    return Family(
        prefix="transformer",
        stream="residual",
        spaces=spaces,
        pieces=pieces,
        norms=tuple(norms),
        attentions=tuple(attentions),
        vanishing=tuple(vanishing),
        writers=tuple(writers),
        embedding="wte",
        positions="wpe",
        unembedding=Head("lm_head", Piece("lm_head.weight", (tokens, stream)), LinearMap("lm_head", 1)),
        tied=True,
        matrices=tuple(matrices),
        activations=tuple(activations),
        maps=tuple(maps),
        configuration={key: getattr(config, key, None) for key in CONFIGURATION} | {"n_inner": hidden},
        rounding=frozenset({"layer_norm_epsilon"}),
        buffers=BUFFERS,
        calibrated=True,
        sound=isinstance(config, SimpleNamespace) and _is_sound(vars(config)),
    )


def _require_plain(facts: Mapping[str, object]) -> None:
    """Raise TypeError where a configuration file says what a GPT-2's usually does not."""
    if not facts.keys().isdisjoint(ALIASES):
        raise TypeError("another name")
    for key, kinds in FIELDS.items():
        value = facts.get(key, ...)
        if value is not ... and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            raise TypeError(key)
    if any(facts.get(key) not in DTYPES for key in ("dtype", "torch_dtype")):
        raise TypeError("dtype")


def _is_sound(facts: Mapping[str, Any]) -> bool:
    """Whether all that a plain configuration file says is usual, and in range: transformers builds such a model."""
    sizes = [facts.get(key) for key in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner")]
    shares = [facts.get(key, 0) for key in ("attn_pdrop", "embd_pdrop", "resid_pdrop", "summary_first_dropout")]
    end = facts.get("eos_token_id")
    single = (facts.get("bos_token_id"), facts.get("pad_token_id"), None if isinstance(end, list) else end)
    ids = [index for index in single if index is not None] + (end if isinstance(end, list) else [])
    spread = facts.get("initializer_range", 0.02)
    return (
        facts.keys() <= FIELDS.keys() | OTHER_KEYS
        and all(size is None or size > 0 for size in sizes)
        and facts["n_embd"] % facts["n_head"] == 0
        and all(0 <= share <= 1 for share in shares)
        and all(type(index) is int and 0 <= index < facts["vocab_size"] for index in ids)
        and 0 < facts.get("layer_norm_epsilon", 1e-5) < 1
        and type(spread) is float
        and 0 <= spread < 1
        and facts.get("activation_function", ACTIVATIONS[0]) in ACTIVATIONS
        and facts.get("return_dict", True) is True
        and all(type(name) is str for name in facts.get("architectures") or ())
        and not any(facts.get(key) for key in UNUSUAL)
    )
