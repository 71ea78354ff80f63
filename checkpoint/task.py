"""What a model does, by the class that its configuration names: it writes text, fills gaps, or classifies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# The Hub's names of what models do.
Task = Literal["text-generation", "fill-mask", "text-classification", "token-classification"]
CAUSAL: Task = "text-generation"
MASKED: Task = "fill-mask"
TEXTS: Task = "text-classification"
TOKENS: Task = "token-classification"
CLASSIFIERS: tuple[Task, ...] = (TEXTS, TOKENS)
# The classes of transformers that open models, by what these do.
AUTO_CLASSES: Mapping[str, str] = {
    CAUSAL: "AutoModelForCausalLM",
    MASKED: "AutoModelForMaskedLM",
    TEXTS: "AutoModelForSequenceClassification",
    TOKENS: "AutoModelForTokenClassification",
}
_ENDINGS = {"ForSequenceClassification": TEXTS, "ForTokenClassification": TOKENS}


def task_of(config: PretrainedConfig) -> Task:
    """What a model of a configuration does: what the class says that it was saved from, if that is a classifier."""
    classifier = classifier_task(config.model_type, getattr(config, "architectures", None))
    if classifier is not None:
        return classifier
    return MASKED if reads_both_ways(config) else CAUSAL


def classifier_task(kind: str, architectures: Any) -> Task | None:
    """The task of a classifier of type `kind`, by the `architectures` of its configuration; None for other models."""
    for name in architectures if isinstance(architectures, list) else ():
        ending = re.search(r"For[A-Z][a-z]+Classification$", name) if isinstance(name, str) else None
        task = _ENDINGS.get(ending[0]) if ending else None
        if task is not None:
            return task if name == class_name(kind, task) else None
    return None


def class_name(kind: str, task: Task) -> str | None:
    """The class of transformers for a type and a task, None if there is none."""
    from transformers.models.auto import modeling_auto

    mappings = {
        CAUSAL: modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MASKED: modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        TEXTS: modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        TOKENS: modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    }
    classes = mappings[task].get(kind)
    return classes[0] if isinstance(classes, tuple) else classes


def auto_class(config: PretrainedConfig) -> Any:
    """The class of transformers that makes and loads models of a configuration."""
    import transformers

    return getattr(transformers, AUTO_CLASSES[task_of(config)])


def reads_both_ways(config: PretrainedConfig) -> bool:
    """Whether a language model of a configuration sees the tokens that it would have to predict, as masked ones do."""
    if class_name(config.model_type, MASKED) is None or getattr(config, "is_encoder_decoder", False):
        return False
    return getattr(config, "is_decoder", None) is False or class_name(config.model_type, CAUSAL) is None
