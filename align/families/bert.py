"""The symmetries of BERT (Devlin et al. 2019, arXiv 1810.04805) and RoBERTa (Liu et al. 2019, arXiv 1907.11692).

Norms come after every sum and write to the stream, whose mean attention and MLP see: nothing but its order is free.
The head has a linear map and a norm of its own, in the order of the embedding's entries while it is tied to that, else
in an order of its own.
"""

from __future__ import annotations

from typing import Any

from ...checkpoint.errors import UnsupportedFamily
from ...checkpoint.task import CAUSAL, MASKED, TEXTS
from ..groups import Permutation, SignedPermutation
from ..symmetry import Family
from ..table_entries import Activation, Axis, Head, LinearMap, Norm, Piece, Reader, Space
from .blocks import STREAM, Blocks
from .classifiers import CLASSIFIER, head_pieces, task
from .plain_file import require_built

# What the forward pass reads of the configuration.
CONFIGURATION = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "type_vocab_size",
    "hidden_act",
    "layer_norm_eps",
    "is_decoder",
)
# What is pretrained beside the language model, and read by none of it.
OTHER = r"^(bert|roberta)\.pooler\.|^cls\.seq_relationship\.|\.position_ids$"
# The same beside a classifier, whose pooler is a part of it where there is one.
CLASSIFIERS_OTHER = r"^roberta\.pooler\.|\.position_ids$"
NAMES = ("self.query", "self.key", "self.value", "output.dense")
LIMITS = (
    ", as far as it goes: norms write to the residual stream of such models, so that its directions are reordered, but "
    "neither flipped nor rotated"
)


def bert(config: Any) -> Family:
    """The symmetry table of a BERT with a head for language modelling, or a classifier: residual stream, MLP neurons,
    heads, and their inside.

    Raises UnsupportedFamily for one with cross-attention; TypeError for the content of a file, which may leave out what
    transformers fills in.
    """
    return _table(config, "bert", "cls.predictions", dense="transform.dense", norm="transform.LayerNorm")


def roberta(config: Any) -> Family:
    """The symmetry table of a RoBERTa: a BERT's, with a head of other names. Raises as `bert` does."""
    return _table(config, "roberta", "lm_head", dense="dense", norm="layer_norm")


def _table(config: Any, prefix: str, head: str, *, dense: str, norm: str) -> Family:
    require_built(config)
    if getattr(config, "add_cross_attention", False):
        raise UnsupportedFamily(f"a {config.model_type} with cross-attention (add_cross_attention) is not supported")
    blocks = _body(config, prefix)
    facts: dict[str, Any] = {
        "prefix": prefix,
        "configuration": {key: getattr(config, key) for key in CONFIGURATION},
        "rounding": frozenset({"layer_norm_eps"}),
        "limits": LIMITS,
    }
    classifier = task(config)
    if classifier is not None:
        return blocks.family(
            tied=False,
            head=_classifier(blocks, config, prefix, of_texts=classifier == TEXTS),
            buffers=CLASSIFIERS_OTHER,
            task=classifier,
            **facts,
        )
    return blocks.family(
        tied=bool(config.tie_word_embeddings),
        head=_language_model(blocks, config, head, dense, norm),
        buffers=OTHER,
        task=CAUSAL if config.is_decoder else MASKED,
        **facts,
    )


def _body(config: Any, prefix: str) -> Blocks:
    """All but the head."""
    width, heads = config.hidden_size, config.num_attention_heads
    blocks = Blocks(Permutation(width), config.vocab_size, layer_norms=True)
    embeddings = f"{prefix}.embeddings"
    blocks.embedding(f"{embeddings}.word_embeddings.weight")
    blocks.positions = "positions"
    blocks.table("positions", f"{embeddings}.position_embeddings.weight", config.max_position_embeddings)
    blocks.table("types", f"{embeddings}.token_type_embeddings.weight", config.type_vocab_size)
    blocks.norm("embeddings norm", f"{embeddings}.LayerNorm", [])
    for layer in range(config.num_hidden_layers):
        name, module = f"layers.{layer}", f"{prefix}.encoder.layer.{layer}"
        blocks.attention(
            name,
            f"{module}.attention",
            heads=heads,
            keys=heads,
            size=width // heads,
            rotated=0,
            names=NAMES,
            biases=("q", "k", "v", "o"),
        )
        blocks.norm(f"{name}.after attention", f"{module}.attention.output.LayerNorm", [])
        blocks.mlp(name, f"{module}.intermediate.dense", f"{module}.output.dense", config.intermediate_size)
        blocks.norm(f"{name}.after mlp", f"{module}.output.LayerNorm", [])
    return blocks


def _language_model(blocks: Blocks, config: Any, head: str, dense: str, norm: str) -> Head:
    """The head of a language model; adds what a tied one has to the blocks."""
    blocks.pieces |= _head(head, dense, norm, STREAM)
    blocks.pieces["unembedding.bias"] = Piece(f"{head}.bias", (Axis(size=config.vocab_size),))
    blocks.norms.append(Norm("head norm", "head norm.bias", (Reader("unembedding", 1, "unembedding.bias"),)))
    blocks.activations.append(Activation("stream", f"{head}.{dense}", "input"))
    blocks.maps[f"{head}.{dense}"] = LinearMap(f"{head}.{dense}", 1)
    own, rows = Axis(("head",)), Axis(size=config.vocab_size)
    decoder = LinearMap(f"{head}.decoder", 1)
    apart = {
        **_head(head, dense, norm, own),
        "unembedding.bias": Piece(f"{head}.decoder.bias", (rows,)),
        "unused bias": Piece(f"{head}.bias", (rows,)),
    }
    return Head(
        "unembedding",
        Piece(decoder.weight, (rows, own)),
        decoder,
        apart=apart,
        copies={"unused bias": "unembedding.bias"},
        spaces={"head": Space(Permutation(config.hidden_size))},
        activations=(Activation("head", decoder.module, "input"),),
    )


def _classifier(blocks: Blocks, config: Any, prefix: str, *, of_texts: bool) -> Head:
    """The head of a classifier. That of texts reads the first token through a map and tanh, which is odd: the entries
    of what it gives may be reordered and flipped.
    """
    bert = prefix == "bert"
    module, inputs = "classifier", STREAM
    if of_texts:
        dense = "bert.pooler.dense" if bert else "classifier.dense"
        module, inputs = "classifier" if bert else "classifier.out_proj", Axis(("pooled",))
        blocks.spaces["pooled"] = Space(SignedPermutation(config.hidden_size))
        blocks.pieces["pooler"] = Piece(f"{dense}.weight", (inputs, STREAM))
        blocks.pieces["pooler.bias"] = Piece(f"{dense}.bias", (inputs,))
        blocks.activations.append(Activation("stream", dense, "input"))
        blocks.maps[dense] = LinearMap(dense, 1)
    bias = head_pieces(CLASSIFIER, module, config.num_labels, inputs)
    piece = bias.pop(CLASSIFIER)
    linear = LinearMap(module, 1)
    seen = (Activation(inputs.spaces[0], module, "input"),)
    return Head(CLASSIFIER, piece, linear, shifts=False, apart=bias, activations=seen)


def _head(head: str, dense: str, norm: str, rows: Axis) -> dict[str, Piece]:
    """The linear map and the norm of the head, whose entries are in the order of `rows`."""
    return {
        "head.dense": Piece(f"{head}.{dense}.weight", (rows, STREAM)),
        "head.dense.bias": Piece(f"{head}.{dense}.bias", (rows,)),
        "head norm": Piece(f"{head}.{norm}.weight", (Axis(rows.spaces, scale=True),)),
        "head norm.bias": Piece(f"{head}.{norm}.bias", (rows,)),
    }
