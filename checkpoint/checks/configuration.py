"""Do two configurations describe models of one shape and function?

A difference in what a model computes with blocks. For a family these keys are in its table (`configuration`); for any
other architecture they are the fields that its configuration class declares. All other keys are at most worth a note.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from inspect import get_annotations
from typing import TYPE_CHECKING, Any

from ..config import PADDED_POSITIONS, build_config, failures_of
from ..model import Families, table_of
from ..token_ids import is_token_key
from .effects import effect_of, effect_of_rounding, flattened, label_of
from .finding import Cause, Finding

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FILE, CONTEXT, PADDING = "config.json", "max_position_embeddings", "pad_token_id"
# Types whose positions are rows of a table and nothing else.
LEARNED = frozenset(["gpt2", "opt", "bert", "roberta", "gpt_neo", "gpt_bigcode", "distilbert", "electra", "camembert"])
FIXED = ("default", "linear", "llama3")  # kinds of rotary positions, of which the longest text changes nothing
LISTED = 6
# Keys that may always differ, and keys that other checks compare: not worth a note.
SILENT = frozenset({
    "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "return_dict", "output_attentions",
    "output_hidden_states", "id2label", "label2id", "chunk_size_feed_forward", "is_encoder_decoder",
    "pad_token_id", "bos_token_id", "eos_token_id",  # compared with the tokenizers
    "vocab_size", "tie_word_embeddings", "quantization_config", "n_ctx", "n_inner",
})  # fmt: skip
# Keys of older files, whose values transformers moves into fields that are compared.
OLD = frozenset(["rope_theta", "rope_scaling", "rotary_pct", "rotary_emb_base", "partial_rotary_factor"])
# Fields of configuration classes that matter only for training, or for the form of the output.
TRAINING = re.compile(
    r".*(dropout|dropout_prob|_pdrop|_drop|layerdrop|jitter_noise|aux_loss_coef)|initializer_\w+|init_std|use_cache"
    r"|output_router_logits|pretraining_tp|gradient_checkpointing|summary_\w+|problem_type|reorder_and_upcast_attn"
    r"|(classifier|classification|loss|decoder_start|forced|sep|mask|cls|image_token|suppress)_\w+|num_labels"
)
# What architectures without a table call the number that keeps a norm from dividing by zero.
ROUNDING = frozenset(
    ["layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps", "norm_eps", "norm_epsilon", "layernorm_epsilon"]
)
# Different names of one function in transformers; the tanh approximations of GELU differ only by rounding.
ACTIVATIONS = {
    "swish": "silu",
    "gelu_python": "gelu",
    **dict.fromkeys(("gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate", "gelu_fast"), "gelu_new"),
}


def configuration_findings(
    name_a: str,
    facts_a: Mapping[str, Any],
    name_b: str,
    facts_b: Mapping[str, Any],
    families: Families | None = None,
) -> list[Finding]:
    """Findings about differences between two config.json; transformers is imported only if there are any.

    Raises as `build_config` does.
    """
    if facts_a["model_type"] != facts_b["model_type"]:
        what = f"'{name_a}' is of type '{facts_a['model_type']}', '{name_b}' of type '{facts_b['model_type']}'"
        return [Finding("blocks", what, "only models of one architecture can be merged", FILE)]
    shifted = facts_a["model_type"] in PADDED_POSITIONS and facts_a.get(PADDING) != facts_b.get(PADDING)
    if _relevant(facts_a) == _relevant(facts_b) and not shifted:
        return []
    a, b = build_config(facts_a, name_a), build_config(facts_b, name_b)
    public = {field: standard for standard, field in a.attribute_map.items()}
    with failures_of(name_a):
        read_a = dict(_read(a, families))
    with failures_of(name_b):
        read_b = dict(_read(b, families))
    table = table_of(a, families)
    rounding = ROUNDING if table is None else table.rounding
    findings = []
    for key in sorted(read_a.keys() | read_b.keys()):
        value_a, value_b = read_a.get(key), read_b.get(key)
        compared = not is_token_key(key) or (key == PADDING and a.model_type in PADDED_POSITIONS)
        if compared and not _equal(value_a, value_b):  # token ids come with the tokenizer
            standard = public.get(key, key)
            what = f"the {label_of(key, standard)} differs: {value_a} in '{name_a}', {value_b} in '{name_b}'"
            taken = f"the merge takes the value of '{name_a}'"
            if key.rpartition(".")[2] in rounding:
                findings.append(Finding("degrades", what, taken + effect_of_rounding(value_a, value_b), FILE))
            elif standard == CONTEXT and _turns_alike(a) and _turns_alike(b):
                findings.append(Finding("degrades", what, f"{taken}; one has not seen longer texts", FILE))
            elif standard == CONTEXT and a.model_type in LEARNED and type(value_a) is type(value_b) is int:
                longer = name_a if value_a > value_b else name_b
                shared = f"the positions that both have are merged, the others are those of '{longer}'"
                findings.append(Finding("degrades", what, f"{shared}; losses are those of the shorter texts", FILE))
            else:
                effect = effect_of("rope_parameters" if standard == CONTEXT and _turns(a) else standard)
                cause: Cause = "positions" if "rope" in key or "position" in key else "architecture"
                findings.append(Finding("blocks", what, effect, FILE, cause))
    handled = {*read_a, *read_b, *SILENT, *OLD, *public, *public.values(), *_declared(a)}
    findings += _bookkeeping(name_a, facts_a, facts_b, handled)
    if a.tie_word_embeddings != b.tie_word_embeddings:
        tied = name_a if a.tie_word_embeddings else name_b
        what = f"only '{tied}' ties its output to its embedding"
        findings.append(Finding("notes", what, "the merge will be untied", FILE, "ties"))
    return findings


def _relevant(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that can change the function of a model, or are worth a note; tied embeddings included."""
    silent = SILENT - {"tie_word_embeddings", "n_inner"}
    return {key: value for key, value in facts.items() if key not in silent and not key.startswith("_")}


def _read(config: PretrainedConfig, families: Families | None) -> Iterator[tuple[str, Any]]:
    """The keys and values that a model computes with; a key of a nested configuration has a dot in it."""
    table = table_of(config, families)
    if config.model_type in PADDED_POSITIONS:
        yield PADDING, config.pad_token_id
    if table is not None and table.configuration:
        for key, value in table.configuration.items():
            yield from flattened(key, value)
        return
    for key in _declared(config):
        value = getattr(config, key, None)
        if key in SILENT - {"n_inner"} or TRAINING.fullmatch(key):
            continue
        if value is not None and hasattr(value, "attribute_map"):
            yield from ((f"{key}.{inner}", content) for inner, content in _read(value, None))
        elif key == "n_inner" and value is None:  # transformers then takes four times the width
            yield key, 4 * config.hidden_size
        else:
            yield from flattened(key, value)


def _turns(config: PretrainedConfig) -> bool:
    """Whether positions are rotations."""
    return bool(getattr(config, "rope_parameters", None))


def _turns_alike(config: PretrainedConfig) -> bool:
    """Whether positions are rotations that do not depend on the context length."""
    said = getattr(config, "rope_parameters", None) or {}
    parts = [part for part in said.values() if isinstance(part, Mapping)] or [said]
    return all(part.get("rope_type") in FIXED for part in parts)


def _declared(config: PretrainedConfig) -> set[str]:
    """The fields that the configuration class of an architecture adds to those of every configuration."""
    from transformers import PretrainedConfig

    classes = [cls for cls in type(config).__mro__ if issubclass(cls, PretrainedConfig) and cls is not PretrainedConfig]
    declared = {key for cls in classes for key in get_annotations(cls)}
    return {key for key in declared if not key.startswith("_") and key not in ("model_type", "sub_configs")}


def _equal(a: object, b: object) -> bool:
    if isinstance(a, str) and isinstance(b, str):
        return ACTIVATIONS.get(a, a) == ACTIVATIONS.get(b, b)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return list(a) == list(b)
    return a == b


def _bookkeeping(name_a: str, a: Mapping[str, Any], b: Mapping[str, Any], handled: set[str]) -> list[Finding]:
    """One note on all differing keys that no forward pass reads."""
    both = {**_relevant(a), **_relevant(b)}
    keys = sorted(
        key
        for key in both
        if key not in handled
        and not TRAINING.fullmatch(key)
        and not is_token_key(key)
        and not _equal(a.get(key), b.get(key))
    )
    if not keys:
        return []
    listed = ", ".join(f"'{key}'" for key in keys[:LISTED])
    more = f" and {len(keys) - LISTED} more keys" if len(keys) > LISTED else ""
    what = f"the configurations also differ in {listed}{more}, which do not change what the models compute"
    return [Finding("notes", what, f"the merge takes the values of '{name_a}'", FILE)]
