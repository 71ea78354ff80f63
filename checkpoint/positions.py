"""Models of different context lengths: one length for all where positions are learned, a row of a table for each.

The rows that all models have are merged. The others are those of the model with the longest table, which stand in all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .config import CONTEXT_KEYS, build_config, context_length, schema_of
from .model import Families
from .rows import ComputedState

if TYPE_CHECKING:
    from .loading import Checkpoint


@dataclass(frozen=True)
class OneContext:
    """The longest context among some models: `owner` has it, and all have `shared` tokens of it.

    `rows` are those that every model has of its own in the tables of positions, by the names of these.
    """

    owner: int
    shared: int
    rows: tuple[Mapping[str, int], ...]

    def with_mean_rows(self, model: int, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A state in which the rows that are not the model's own are the mean of its own: they say nothing."""

        def tensor(name: str, table: Tensor) -> Tensor:
            own = table[: self.rows[model][name]]
            mean = own.double().mean(0).to(table.dtype)
            return torch.cat([own, mean.expand(len(table) - len(own), -1)])

        tables = {name: tensor(name, state[name]) for name, own in self.rows[model].items() if own < len(state[name])}
        return {**state, **tables} if tables else state

    def with_rows_of_owner(self, states: Sequence[Mapping[str, Tensor]]) -> list[Mapping[str, Tensor]]:
        """States in which the rows that are not a model's own are those of the owner as it is there."""
        longest, completed = states[self.owner], []
        for state, rows in zip(states, self.rows, strict=True):
            tables = {
                name: torch.cat([state[name][:own], longest[name][own:]])
                for name, own in rows.items()
                if own < len(longest[name])
            }
            completed.append({**state, **tables} if tables else state)
        return completed


def one_context(models: Sequence[Checkpoint], families: Families | None) -> tuple[list[Checkpoint], OneContext | None]:
    """The models with tables of positions of one length, and what was done; None where nothing had to be."""
    shapes = [model.schema.shapes for model in models]
    if all(one == shapes[0] for one in shapes):  # and nothing of transformers is imported for it
        return list(models), None
    lengths = [context_length(model.config) or 0 for model in models]
    owner = max(range(len(models)), key=lambda place: lengths[place])
    longest = models[owner].schema.shapes
    names = [
        name
        for name, shape in longest.items()
        if any(name in model.schema.shapes and model.schema.shapes[name] != shape for model in models)
        and name in position_tables(models[owner], families)
    ]
    if not names:
        return list(models), None
    rows = tuple({name: model.schema.shapes[name][0] for name in names} for model in models)
    completed = [_with_rows(model, models[owner], names) for model in models]
    return completed, OneContext(owner, min(lengths), rows)


def position_tables(model: Checkpoint, families: Families | None) -> list[str]:
    """The tensors that have a row for every position: those that would have one more with a longer context."""
    key = _key(model)
    longer = {**model.facts, key: int(getattr(model.config, key)) + 1}
    shapes = schema_of(longer, model.name, families).shapes
    return [name for name, shape in model.schema.shapes.items() if shapes.get(name) != shape]


def _key(model: Checkpoint) -> str:
    """What a configuration calls its context length."""
    written = next((key for key in CONTEXT_KEYS if key in model.facts), None)
    names = build_config(model.facts, model.name).attribute_map
    return written or names.get(CONTEXT_KEYS[0], CONTEXT_KEYS[0])


def _with_rows(model: Checkpoint, owner: Checkpoint, names: Sequence[str]) -> Checkpoint:
    shapes = owner.schema.shapes
    if all(model.schema.shapes[name] == shapes[name] for name in names):
        return model
    key = _key(owner)
    facts = {name: value for name, value in model.facts.items() if name not in (*CONTEXT_KEYS, "n_ctx")}
    schema = replace(model.schema, shapes={**model.schema.shapes, **{name: shapes[name] for name in names}})

    def tensor(name: str) -> Tensor:
        own = model.state[name]
        return torch.cat([own, owner.state[name][len(own) :]]) if name in names else own

    return replace(
        model,
        facts={**facts, key: getattr(owner.config, key)},
        schema=schema,
        state=ComputedState([*model.state], tensor),
    )
