"""Do two configurations describe models of one shape and function?

What a model computes with blocks where it differs. For a family that is the list in its table (`configuration`); for
another architecture the fields that its configuration class declares. All else is bookkeeping: at most a note.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from inspect import get_annotations
from typing import TYPE_CHECKING, Any

from ..config import build_config
from ..model import Families
from ..token_ids import is_token_key
from .finding import Finding

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FILE = "config.json"
LISTED = 6
LABELS = {
    "num_hidden_layers": "number of layers",
    "hidden_size": "width",
    "num_attention_heads": "number of heads",
    "max_position_embeddings": "context length",
    "position_embedding_type": "position encoding",
    "rope_theta": "base of the rotary position encoding",
    "rope_parameters": "rotary position encoding",
    "rope_scaling": "scaling of the rotary position encoding",
}
# What every pair of configurations may differ in, and what other checks compare: not worth a note.
SILENT = frozenset(
    [
        "architectures",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "return_dict",
        "output_attentions",
        "output_hidden_states",
        "id2label",
        "label2id",
        "chunk_size_feed_forward",
        "is_encoder_decoder",
        "pad_token_id",  # compared with the tokenizers
        "bos_token_id",
        "eos_token_id",
        "vocab_size",
        "tie_word_embeddings",
        "quantization_config",
        "n_ctx",
        "n_inner",
    ]
)
# What older files say, and classes take into fields that are compared.
OLD = frozenset(["rope_theta", "rope_scaling", "rotary_pct", "rotary_emb_base", "partial_rotary_factor"])
# Fields that configuration classes declare and that only training, or the form of the output, reads.
TRAINING = re.compile(
    r".*(dropout|dropout_prob|_pdrop|_drop|layerdrop|jitter_noise|aux_loss_coef)|initializer_\w+|init_std|use_cache"
    r"|output_router_logits|pretraining_tp|gradient_checkpointing|summary_\w+|problem_type|reorder_and_upcast_attn"
    r"|(classifier|classification|loss|decoder_start|forced|sep|mask|cls|image_token|suppress)_\w+|num_labels"
)
# What architectures without a table call the number that keeps a norm from dividing by zero.
ROUNDING = frozenset(
    ["layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps", "norm_eps", "norm_epsilon", "layernorm_epsilon"]
)
# Names of one function in transformers; the tanh approximations of GELU differ by rounding alone.
ACTIVATIONS = {
    "swish": "silu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu_fast": "gelu_new",
}


def configuration_findings(
    name_a: str,
    facts_a: Mapping[str, Any],
    name_b: str,
    facts_b: Mapping[str, Any],
    families: Families | None = None,
) -> list[Finding]:
    """What differs between the contents of two config.json; nothing is imported where they say the same.

    Raises as `build_config` does.
    """
    if facts_a["model_type"] != facts_b["model_type"]:
        what = f"'{name_a}' is of type '{facts_a['model_type']}', '{name_b}' of type '{facts_b['model_type']}'"
        return [Finding("blocks", what, "only models of one architecture can be merged", FILE)]
    if _spoken(facts_a) == _spoken(facts_b):
        return []
    a, b = build_config(facts_a, name_a), build_config(facts_b, name_b)
    public = {own: standard for standard, own in a.attribute_map.items()}
    read_a, read_b = (dict(_read(config, families)) for config in (a, b))
    rounding = families[a.model_type](a).rounding if families and a.model_type in families else ROUNDING
    findings = []
    for key in sorted(read_a.keys() | read_b.keys()):
        mine, other = read_a.get(key), read_b.get(key)
        if not is_token_key(key) and not _equal(mine, other):  # token ids are those of the tokenizer's model
            block = key.rpartition(".")[2] not in rounding
            findings.append(_difference(key, public.get(key, key), mine, name_a, other, name_b, blocks=block))
    known = {*read_a, *read_b, *SILENT, *OLD, *public, *public.values(), *_declared(a)}
    findings += _bookkeeping(name_a, facts_a, facts_b, known)
    if a.tie_word_embeddings != b.tie_word_embeddings:
        tied = name_a if a.tie_word_embeddings else name_b
        what = f"only '{tied}' ties its output to its embedding"
        findings.append(Finding("notes", what, "the merge will be untied", FILE))
    return findings


def _spoken(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What can make a difference or is worth a note, tied embeddings too."""
    silent = SILENT - {"tie_word_embeddings", "n_inner"}
    return {key: value for key, value in facts.items() if key not in silent and not key.startswith("_")}


def _read(config: PretrainedConfig, families: Families | None) -> Iterator[tuple[str, Any]]:
    """What a model computes with: key and value, those of inner configurations with a dotted key."""
    table = families[config.model_type](config).configuration if families and config.model_type in families else {}
    if table:
        yield from table.items()
        return
    for key in _declared(config):
        value = getattr(config, key, None)
        if key in SILENT - {"n_inner"} or TRAINING.fullmatch(key):
            continue
        if value is not None and hasattr(value, "attribute_map"):
            yield from ((f"{key}.{inner}", content) for inner, content in _read(value, None))
        elif key == "n_inner" and value is None:  # four hidden units for every feature
            yield key, 4 * config.hidden_size
        else:
            yield key, value


def _declared(config: PretrainedConfig) -> set[str]:
    """The fields that the configuration class of an architecture has beside those that all have."""
    from transformers import PretrainedConfig

    classes = [cls for cls in type(config).__mro__ if issubclass(cls, PretrainedConfig) and cls is not PretrainedConfig]
    declared = {key for cls in classes for key in get_annotations(cls)}
    return {key for key in declared if not key.startswith("_") and key not in ("model_type", "sub_configs")}


def _equal(mine: object, other: object) -> bool:
    if isinstance(mine, str) and isinstance(other, str):
        return ACTIVATIONS.get(mine, mine) == ACTIVATIONS.get(other, other)
    if isinstance(mine, (list, tuple)) and isinstance(other, (list, tuple)):
        return list(mine) == list(other)
    return mine == other


def _difference(
    key: str, standard: str, mine: object, name_a: str, other: object, name_b: str, *, blocks: bool
) -> Finding:
    what = f"the {LABELS.get(standard, key)} differs: {mine} in '{name_a}', {other} in '{name_b}'"
    if not blocks:
        return Finding("degrades", what, f"the merge takes the value of '{name_a}'", FILE)
    return Finding("blocks", what, "only models of one shape and function can be merged", FILE)


def _bookkeeping(name_a: str, a: Mapping[str, Any], b: Mapping[str, Any], known: set[str]) -> list[Finding]:
    """One note on the keys that no forward pass reads."""
    both = {**_spoken(a), **_spoken(b)}
    keys = sorted(
        key
        for key in both
        if key not in known
        and not TRAINING.fullmatch(key)
        and not is_token_key(key)
        and not _equal(a.get(key), b.get(key))
    )
    if not keys:
        return []
    listed = ", ".join(f"'{key}'" for key in keys[:LISTED])
    more = f" and {len(keys) - LISTED} more keys" if len(keys) > LISTED else ""
    what = f"the configurations also differ in {listed}{more}, which the models do not compute with"
    return [Finding("notes", what, f"the merge takes what '{name_a}' says", FILE)]
