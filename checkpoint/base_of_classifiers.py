"""A language model as the base of classifiers, which were trained from it with heads that it does not have.

Its body is what they have in common. What it lacks, their heads and poolers, is the mean of theirs, so that the task
vectors of these are what sets them apart, and a single classifier keeps its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .checks.finding import Finding
from .config import schema_of
from .model import Families
from .rows import ComputedState, first_of
from .task import classifier_task
from .tensor_inventory import inventory_as

if TYPE_CHECKING:
    from .loading import Checkpoint

# Of config.json: what makes a classifier of a model.
KEYS = ("architectures", "id2label", "label2id", "num_labels", "problem_type", "tie_word_embeddings")
PADDING = "pad_token_id"


def is_base_of_classifiers(facts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the first of some config.json is a language model, and the others, one or more, are classifiers."""
    tasks = [classifier_task(one["model_type"], one.get("architectures")) for one in facts]
    return len(tasks) > 1 and tasks[0] is None and None not in tasks[1:]


def classifier_facts(facts: Mapping[str, Any], classifier: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a model as that of a classifier."""
    body = {key: value for key, value in facts.items() if key not in KEYS}
    padding = {PADDING: classifier[PADDING]} if facts.get(PADDING) is None and PADDING in classifier else {}
    return {**body, **padding, **{key: classifier[key] for key in KEYS if key in classifier}}


def base_finding(base: str, classifiers: Sequence[str]) -> Finding:
    """What is said of such a base."""
    one = len(classifiers) == 1
    what = f"'{base}' is a language model, and has no head of a classifier, as what was trained from it has"
    head = f"the head of '{classifiers[0]}' is taken" if one else "their heads are merged around their mean"
    return Finding("notes", what, f"its body is the base, and {head}", "config.json")


def as_base(base: Checkpoint, models: Sequence[Checkpoint], families: Families | None = None) -> Checkpoint:
    """The base in the form of the classifiers `models`, whose heads agree in their labels: see above.

    A pooler that its files hold beside a language model's head is its own.
    """
    facts = classifier_facts(base.facts, models[0].facts)
    schema = schema_of(facts, base.name, families)
    own = base.state
    if base.source is not None and len(base.source.parts) == 1:
        contents = inventory_as(base.source, facts, families)
        assert contents is not None, "the files are on this disk"
        own = first_of(own, contents.state(base.source))
    names = set(own)

    def tensor(name: str) -> Tensor:
        if name in names:
            return own[name]
        return torch.stack([model.state[name].double() for model in models]).mean(0).float()

    return replace(base, facts=facts, schema=schema, state=ComputedState(schema.shapes, tensor))
