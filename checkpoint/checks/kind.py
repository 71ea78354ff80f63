"""Is it a language model or a classifier, complete and in full precision? Nothing else can be merged yet."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..config import build_config
from ..model import Families, Schema
from ..small_files import ADAPTER
from ..source import Source
from ..task import CAUSAL, MASKED, class_name, classifier_task, reads_both_ways
from .finding import Finding

FILE = "config.json"
FOR_MASKED = "ForMaskedLM"
ADVICE = "isthmus merges language models and classifiers of texts and tokens so far"
WITHOUT_HEAD = "merge the language model that it was trained from, or save it without that head"
# Classes of transformers by the end of their names.
CLASSES = (
    (r"ForSequenceClassification|ForTokenClassification|RewardModel|ForRewardModeling", "has a classifier head"),
    (r"ForMultipleChoice|DoubleHeadsModel", "has a second head beside that of a language model"),
    (r"WithValueHead", "has a value head beside that of a language model"),
    (r"ForQuestionAnswering", "has a head that answers questions"),
    (r"ForPreTraining|ForNextSentencePrediction", "has a second head beside that of a language model"),
    (r"ForSpeechSeq2Seq|ForCTC|For\w*Audio\w*|ForSpeech\w*", "is an audio model"),
    (r"For\w*(Image|Video|Vision|Object|Semantic|Segmentation|Depth|Keypoint|Document)\w*", "is an image model"),
    (r"ForConditionalGeneration|ForSeq2SeqLM|EncoderModel", "is an encoder-decoder model"),
    (r"For(?!CausalLM$)\w+", "is not a language model"),
)  # fmt: skip
# Heads by the first part of the names of their tensors.
HEADS = {
    **dict.fromkeys(("v_head", "value_head"), "a value head"),
    **dict.fromkeys(("score", "classifier", "classification_head", "rm_head", "reward_head"), "a classifier head"),
    "multiple_choice_head": "a second head",
    "qa_outputs": "a head that answers questions",
}
QUANTIZED = re.compile(
    r".*(\.qweight|\.qzeros|\.g_idx|\.SCB|\.weight_packed|\.weight_scale|\.weight_scale_inv|\.absmax|\.quant_map"
    r"|\.quant_state\.\w+|_blocks|_scales)"
)


def kind_findings(source: Source, facts: Mapping[str, Any], families: Families | None) -> list[Finding]:
    """A finding if a model is of another kind, by its files and its configuration; at most one.

    Most kinds block. Raises as `build_config` does.
    """
    name, kind = source.name, facts["model_type"]
    if ADAPTER in source.files:
        what = f"'{name}' holds an adapter beside its weights ({ADAPTER}), which transformers applies to them"
        advice = "merge the adapter into the model, or remove its files"
        return [Finding("blocks", what, advice, ADAPTER)]
    listed = facts.get("architectures")
    names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    classifier = classifier_task(kind, names)
    causal = (
        class_name(kind, CAUSAL) if families is None or kind not in families or any(map(_description, names)) else None
    )
    for architecture in names:
        words = _description(architecture)
        if architecture.endswith(FOR_MASKED) and (causal is not None or architecture == class_name(kind, MASKED)):
            continue
        if classifier is not None and architecture == class_name(kind, classifier):
            continue
        if words and architecture != causal:
            advice = f"{ADVICE}; {WITHOUT_HEAD}" if "head" in words else ADVICE
            return [Finding("blocks", f"'{name}' {words} ({architecture})", advice, FILE)]
    obstacle: str | None = None
    if facts.get("is_encoder_decoder"):
        obstacle = f"'{name}' is an encoder-decoder model"
    elif facts.get("add_cross_attention"):
        obstacle = f"'{name}' is the decoder of an encoder-decoder model (add_cross_attention)"
    elif families is None or kind not in families:
        config = build_config(facts, name)
        if classifier is None and causal is None and class_name(kind, MASKED) is None:
            obstacle = f"'{name}' is of type '{kind}', for which transformers has no language model"
        elif config.is_encoder_decoder:
            obstacle = f"'{name}' is an encoder-decoder model"
        elif classifier is None and reads_both_ways(config):
            return [masked_finding(name)]
    return [Finding("blocks", obstacle, ADVICE, FILE)] if obstacle else []


def tensor_findings(name: str, unknown: Iterable[str], where: str) -> list[Finding]:
    """A finding if the name of an `unknown` stored tensor shows a head or quantized weights; at most one."""
    for tensor in unknown:
        head = HEADS.get(tensor.partition(".")[0])
        if head:
            what = f"'{name}' has {head} ('{tensor}') beside the weights of a language model"
            return [Finding("blocks", what, f"{ADVICE}; {WITHOUT_HEAD}", where)]
        if QUANTIZED.fullmatch(tensor):
            what = f"'{name}' is quantized (its tensor '{tensor}' says so)"
            return [Finding("blocks", what, "merge the full-precision weights", where)]
    return []


def headless_findings(name: str, facts: Mapping[str, Any], missing: Iterable[str], schema: Schema) -> list[Finding]:
    """A finding if the output matrix is all that is `missing` in the files of a model; at most one."""
    missing = list(missing)
    if not missing:
        names = facts.get("architectures")
        bare = f"{facts['model_type']}model".replace("_", "").replace("-", "").lower()
        base = [name for name in names if str(name).lower() == bare] if isinstance(names, list) else []
        what = f"'{name}' was saved without the output matrix of a language model ({', '.join(base)})"
        advice = "the embedding serves as output matrix, as in every language model of this type"
        return [Finding("notes", what, advice, FILE)] if base and schema.tied else []
    if any(tensor.startswith(f"{schema.prefix}.") for tensor in missing):
        return []
    if schema.classifies:
        what = f"'{name}' has no head of a classifier (it lacks '{missing[0]}'), which its config.json says it is"
        return [Finding("blocks", what, "give the model that was trained, with its head", FILE)]
    what = f"'{name}' has no output matrix of a language model (it lacks '{missing[0]}')"
    return [Finding("blocks", what, f"{ADVICE}: give the model that it was taken from", FILE)]


def _description(architecture: str) -> str | None:
    """What kind of model a class of transformers is; None if it may be a causal language model."""
    return next((words for ending, words in CLASSES if re.search(rf"(?:{ending})$", architecture)), None)


def masked_finding(name: str) -> Finding:
    """What is said of a masked language model."""
    what = f"'{name}' is a masked language model, which reads in both directions"
    return Finding("notes", what, "its loss is that of 15 % of the tokens, which are hidden from it", FILE)
