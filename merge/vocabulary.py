"""A merge of two vocabularies of which one grew: the shared rows are merged, the others kept from the model that has
them, in the form that the merge is in.

The canonical form subtracts the mean over the rows of the unembedding, so that the rows of a model with more of them
are all moved by one and the same vector, and that is put back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..align.families import family
from ..align.universe import Universe
from ..checkpoint.inputs import Inputs
from ..checkpoint.one_vocabulary import OneVocabulary
from ..checkpoint.rows import ComputedState, in_blocks
from ..eval.loss import Losses


def kept_rows(inputs: Inputs, aligned: Universe | None) -> dict[str, Tensor]:
    """The rows past the shared ones, by tensor; `aligned` are the two after alignment, None for a plain average.

    Empty where both vocabularies are the same.
    """
    growth = inputs.growth
    if growth is None or growth.total == growth.shared:
        return {}
    owner, shared = inputs.whole[growth.owner], inputs.members[growth.owner]
    if aligned is None or aligned.alignment.method == "none":
        grown = [name for name, shape in owner.schema.shapes.items() if shape != shared.schema.shapes[name]]
        return {name: owner.state[name][growth.shared :].clone() for name in grown}
    near = aligned.states[growth.owner]
    table, alignment = family(owner.config), aligned.alignment
    if alignment.method == "learned":  # the merge is saved without the gauge
        near, alignment = aligned.neutral(near), alignment.without_gauge(table)
    moved = alignment.apply(owner.state, table) if growth.owner else alignment.reference(owner.state, table)
    grown = [name for name, whole in moved.items() if whole.shape != near[name].shape]
    return {name: moved[name][growth.shared :] + (near[name][0] - moved[name][0]) for name in grown}


@dataclass(frozen=True)
class Whole:
    """A merge as it is saved: its `state`, the content of config.json, and the `rows` that only one model has."""

    state: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    rows: Mapping[str, Tensor]

    @classmethod
    def of(
        cls, state: Mapping[str, Tensor], facts: Mapping[str, Any], inputs: Inputs, aligned: Universe | None
    ) -> Whole:
        """A merge of the shared rows with all of them; `aligned` as for `kept_rows`."""
        rows = kept_rows(inputs, aligned)
        return cls(whole_state(state, rows), inputs.facts(facts), rows)


def vocabulary_record(
    inputs: Inputs, merge: Losses | None = None, shared: Losses | None = None, *, same_text: bool | None = None
) -> dict[str, Any] | None:
    """What the report says of a grown vocabulary, None where there is none.

    `loss` is that of the `merge` as it is saved, with all rows, on the report text, as are the losses of the merge, the
    endpoints, their average and their ensemble anywhere in a report. `shared_loss` is that of the merge with the rows
    that both models have, as are the losses along paths. `same_text` says whether the tokenizer that is saved cuts the
    text into the same tokens as that of the shared rows, with which all is measured.
    """
    growth = inputs.growth
    if growth is None:
        return None if inputs.unified is None else _unified_record(inputs.unified)
    owner = "AB"[growth.owner] if growth.total > growth.shared else None
    on_shared = shared or merge
    return {
        "shared_rows": growth.shared,
        "rows": growth.total,
        "kept_from": owner,
        "added_tokens": list(growth.added),
        "loss": merge.mean if merge else None,
        "shared_loss": on_shared.mean if on_shared else None,
        "shared_losses": {label: on_shared.label_mean(label) for label in on_shared.per_block} if on_shared else {},
        "same_text": same_text,
    }


def _unified_record(vocabulary: OneVocabulary) -> dict[str, Any]:
    """What the report says of one vocabulary for all, in which every model has every row."""
    return {
        "shared_rows": vocabulary.rows,
        "rows": vocabulary.rows,
        "kept_from": None,
        "added_tokens": [token for token in vocabulary.missing if token in vocabulary.tokens],
        "left_out": [token for token in vocabulary.missing if token not in vocabulary.tokens],
        "loss": None,
        "shared_loss": None,
        "shared_losses": {},
        "same_text": None,
    }


def whole_state(state: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A merged state with the `rows` that were kept put below its own."""
    if not rows:
        return state

    def tensor(name: str) -> Tensor:
        own = state[name]
        return torch.cat([own, rows[name].to(own)]) if name in rows else own

    def blocks(name: str) -> Iterator[Tensor]:
        return in_blocks({name: tensor(name)} if name in rows else state, name)

    return ComputedState(state, tensor, blocks)
