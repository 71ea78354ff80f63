"""Do two configurations describe models of one shape and function?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from isthmus.checkpoint.checks.finding import Finding
from isthmus.checkpoint.config import build_config
from isthmus.checkpoint.token_ids import is_token_key

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FILE = "config.json"
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
# What a configuration says that has no bearing on the function of the weights.
IRRELEVANT = frozenset(
    [
        "_name_or_path",
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
        "problem_type",
        "chunk_size_feed_forward",
        "is_encoder_decoder",
        "initializer_range",
        "attn_pdrop",
        "embd_pdrop",
        "resid_pdrop",
        "task_specific_params",
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
        "tie_word_embeddings",
        "n_ctx",
        "gradient_checkpointing",
        "reorder_and_upcast_attn",
        "vocab_size",  # compared with the tokenizers
    ]
)
TIES = "tie_word_embeddings"


def configuration_findings(
    name_a: str, facts_a: Mapping[str, Any], name_b: str, facts_b: Mapping[str, Any]
) -> list[Finding]:
    """What differs between the contents of two config.json; nothing is imported where they say the same."""
    if _relevant(facts_a) == _relevant(facts_b):
        return []
    a, b = build_config(facts_a, name_a), build_config(facts_b, name_b)
    if a.model_type != b.model_type:
        what = f"'{name_a}' is of type '{a.model_type}', '{name_b}' of type '{b.model_type}'"
        return [Finding("blocks", what, "only models of one architecture can be merged", FILE)]
    findings = []
    public = {own: standard for standard, own in a.attribute_map.items()}
    fields_a, fields_b = (_explicit(config) for config in (a, b))
    for key in sorted(fields_a.keys() | fields_b.keys()):
        mine, other = fields_a.get(key), fields_b.get(key)
        if mine == other or public.get(key, key) in IRRELEVANT or key in IRRELEVANT or key.startswith("summary_"):
            continue
        if is_token_key(key):  # they are those of the tokenizer's model
            continue
        findings.append(_difference(LABELS.get(public.get(key, key), key), mine, name_a, other, name_b))
    if a.tie_word_embeddings != b.tie_word_embeddings:
        tied = name_a if a.tie_word_embeddings else name_b
        what = f"only '{tied}' ties its output to its embedding"
        findings.append(Finding("notes", what, "the merge will be untied", FILE))
    return findings


def _explicit(config: PretrainedConfig) -> dict[str, Any]:
    """The configuration's content, with what GPT-2's leaves to be understood: four hidden units for every feature."""
    fields: dict[str, Any] = config.to_dict()
    if fields.get("n_inner", 0) is None:
        fields["n_inner"] = 4 * config.hidden_size
    return fields


def _difference(label: str, mine: object, name_a: str, other: object, name_b: str) -> Finding:
    what = f"the {label} differs: {mine} in '{name_a}', {other} in '{name_b}'"
    if label == "layer_norm_epsilon":
        return Finding("degrades", what, f"the merge takes the value of '{name_a}'", FILE)
    return Finding("blocks", what, "only models of one shape and function can be merged", FILE)


def _relevant(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What can make a difference, tied embeddings too."""
    return {key: value for key, value in facts.items() if key not in IRRELEVANT - {TIES} and not is_token_key(key)}
