"""The labels of classifiers: the rows of their heads, brought together by name, or the head of one model for all.

A head has as many rows as there are labels, and `id2label` of the configuration names them. Two classifiers of the same
labels may number them differently: a row of one is merged with the row of the same name of the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .config import build_config, schema_of
from .errors import CorruptCheckpoint
from .model import Families
from .rows import ComputedState
from .task import classifier_task

if TYPE_CHECKING:
    from .loading import Checkpoint


def labels_of(facts: Mapping[str, Any], model: str) -> tuple[str, ...]:
    """The labels of a classifier, in the order of the rows of its head; none for a language model.

    Raises CorruptCheckpoint for names that leave a row out, or that two rows have.
    """
    if classifier_task(facts["model_type"], facts.get("architectures")) is None:
        return ()
    names: dict[int, Any] = {int(row): name for row, name in (build_config(facts, model).id2label or {}).items()}
    stated = facts.get("id2label")
    rows = len(stated) if isinstance(stated, Mapping) else len(names)
    texts = all(isinstance(name, str) for name in names.values())
    if sorted(names) != list(range(rows)) or not texts or len(set(names.values())) < rows:
        raise CorruptCheckpoint(
            f"config.json of '{model}' does not name every label once (id2label): repair it, so that labels can be "
            "told apart"
        )
    return tuple(names[row] for row in range(len(names)))


def are_unnamed(labels: Sequence[str]) -> bool:
    """Whether labels have the names that transformers gives where nobody did."""
    return all(name == f"LABEL_{row}" for row, name in enumerate(labels))


def rows_by_name(labels: Sequence[str], own: Sequence[str]) -> list[int] | None:
    """For every one of some labels, the row that has it among those of another model; None where they differ.

    Labels without names are those of the same number. Case does not tell labels apart.
    """
    if len(labels) != len(own):
        return None
    if are_unnamed(labels) or are_unnamed(own):
        return list(range(len(labels)))
    places = {name.casefold(): row for row, name in enumerate(own)}
    if len(places) < len(own):
        places = {name: row for row, name in enumerate(own)}
    rows = [places.get(name.casefold(), places.get(name)) for name in labels]
    return [row for row in rows if row is not None] if None not in rows and len(set(rows)) == len(rows) else None


def naming_model(facts: Sequence[Mapping[str, Any]], names: Sequence[str], head: int | None = None) -> int:
    """The place of the model whose labels all others are held against: that of the `head`, else the first whose labels
    have names, else the first.
    """
    if head is not None:
        return head
    named = (place for place, one in enumerate(facts) if not are_unnamed(labels_of(one, names[place])))
    return next(named, 0)


def one_head(models: Sequence[Checkpoint], head: int | None, families: Families | None) -> list[Checkpoint]:
    """The models with the labels of one: of the first whose labels have names, into whose order the rows of the others
    are brought by name, or the whole head of the model at `head`, for all.

    Models whose labels are in that order stay as they are. What they are must have been checked (`checks.labels`).
    """
    if not models[0].schema.classifies:
        return list(models)
    owner = models[naming_model([model.facts for model in models], [model.name for model in models], head)]
    labels = labels_of(owner.facts, owner.name)
    return [
        model if model is owner else _with_labels(model, owner, labels, families, taken=head is not None)
        for model in models
    ]


def _with_labels(
    model: Checkpoint, owner: Checkpoint, labels: Sequence[str], families: Families | None, *, taken: bool
) -> Checkpoint:
    own = labels_of(model.facts, model.name)
    rows = rows_by_name(labels, own)
    if not taken and rows == list(range(len(own))):
        return _named(model, owner)
    head = set(owner.schema.head)
    if taken:
        schema = replace(model.schema, shapes={**model.schema.shapes, **{n: owner.schema.shapes[n] for n in head}})

        def of_owner(name: str) -> Tensor:
            return owner.state[name] if name in head else model.state[name]

        state = ComputedState([*model.state], of_owner)
        return _named(replace(model, state=state, schema=schema), owner)
    assert rows is not None, "labels that differ were refused"
    order, axes = torch.tensor(rows), label_axes(model, families)

    def ordered(name: str) -> Tensor:
        return model.state[name].index_select(axes[name], order) if name in axes else model.state[name]

    return _named(replace(model, state=ComputedState([*model.state], ordered)), owner)


def _named(model: Checkpoint, owner: Checkpoint) -> Checkpoint:
    keys = ("id2label", "label2id", "num_labels", "problem_type")
    facts = {key: value for key, value in model.facts.items() if key not in keys}
    return replace(model, facts={**facts, **{key: owner.facts[key] for key in keys if key in owner.facts}})


def label_axes(model: Checkpoint, families: Families | None) -> dict[str, int]:
    """The axis of every tensor that has a row for each label: what would be longer with one more of them."""
    labels = labels_of(model.facts, model.name)
    more = dict(enumerate([*labels, "one more"]))
    facts = {key: value for key, value in model.facts.items() if key not in ("label2id", "num_labels")}
    facts["id2label"] = {str(row): name for row, name in more.items()}
    facts["label2id"] = {name: row for row, name in more.items()}
    longer = schema_of(facts, model.name, families).shapes
    axes = {}
    for name, shape in model.schema.shapes.items():
        differing = [axis for axis, (one, other) in enumerate(zip(shape, longer[name], strict=True)) if one != other]
        if differing:
            axes[name] = differing[0]
    return axes
