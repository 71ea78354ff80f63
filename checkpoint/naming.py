"""The names of a model's tensors in its files, and in memory.

transformers renames and regroups tensors when it loads them: the output matrix of GPT-NeoX is stored as ``embed_out``,
every expert of Mixtral as a tensor of its own. This module applies the rules of transformers in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .headers import ITEM_BITS, TensorInfo
from .rows import ComputedState, in_blocks

if TYPE_CHECKING:
    from torch import nn

    from .model import Schema

# Buffers that earlier versions of transformers stored as if they were weights, of architectures without a table.
STORED_BUFFERS = re.compile(
    r"(^|\.)(attn|attention|crossattention)\.(bias|masked_bias|causal_mask)$"
    r"|rotary_emb\.(inv_freq|cos_cached|sin_cached)$|(^|\.)position_ids$"
)
FLOATS = frozenset(name for name in ITEM_BITS if name.startswith(("F", "BF")))
Rule = tuple[Any, tuple[str, ...]]  # transformers' converter, and the pattern that every stored name matched


@dataclass(frozen=True)
class Conversion:
    """Tensors of the model (`names`), made from tensors in the files (`stored`); without a `rule`, one from one."""

    stored: tuple[str, ...]
    names: tuple[str, ...]
    rule: Rule | None = field(default=None, compare=False)
    model: nn.Module | None = field(default=None, repr=False, compare=False)
    rules: tuple[Any, ...] = field(default=(), repr=False, compare=False)

    def loaded(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the model, made from those in the files."""
        if self.rule is None:
            return {self.names[0]: tensors[self.stored[0]]}
        return _converted(self.rule, self.names[0], {name: tensors[name] for name in self.stored}, self.model)

    def saved(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors in the files, made from those of the model."""
        if self.rule is None:
            return {self.stored[0]: tensors[self.names[0]]}
        return _reverted({name: tensors[name] for name in self.names}, self.model, self.rules)


@dataclass(frozen=True)
class Naming:
    """How the tensors of one model are stored: their `conversions`.

    `ignored` are stored tensors that are not weights, `unknown` those that the model does not have, `repeated` pairs of
    names of one tensor.
    """

    conversions: tuple[Conversion, ...]
    ignored: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    repeated: tuple[tuple[str, str], ...] = ()
    model: nn.Module | None = field(default=None, repr=False, compare=False)
    rules: tuple[Any, ...] = field(default=(), repr=False, compare=False)

    @property
    def foreign(self) -> tuple[str, ...]:
        """Stored tensors that are not weights of the model."""
        return (*self.unknown, *self.ignored)

    def by_name(self) -> dict[str, Conversion]:
        """The conversion of every tensor of the model."""
        return {name: conversion for conversion in self.conversions for name in conversion.names}

    def renamed(self, names: Mapping[str, str]) -> Naming:
        """The same files, with some tensors of the model under other names, by which they are saved."""
        conversions = tuple(
            _OneWay(conversion.stored, (names[conversion.names[0]],)) if conversion.names[0] in names else conversion
            for conversion in self.conversions
        )
        return replace(self, conversions=conversions)

    def stored_as(self, names: Mapping[str, str]) -> Naming:
        """The same tensors, stored under other `names`; they are saved under those of the model."""
        conversions = tuple(
            _OneWay(tuple(names[stored] for stored in conversion.stored), conversion.names)
            for conversion in self.conversions
        )
        ignored = tuple(names[stored] for stored in self.ignored)
        return replace(self, conversions=conversions, ignored=ignored)

    def as_stored(
        self, shapes: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]
    ) -> tuple[dict[str, tuple[int, ...]], Mapping[str, Tensor]]:
        """The shapes and tensors of a state under the names in these files, in blocks if possible.

        Tensors that the files do not have, such as an output matrix that was tied, are named by transformers' rules.
        """
        places: dict[str, tuple[Conversion, tuple[int, ...]]] = {}
        conversions = self.by_name()
        done: set[str] = set()
        for name in shapes:
            conversion = conversions.get(name) or self._by_rules(name, shapes[name])
            if any(other not in shapes for other in conversion.names):
                conversion = Conversion((name,), (name,))
            if name not in done:
                empty = {other: torch.empty(shapes[other], device="meta") for other in conversion.names}
                saved = conversion.saved(empty)
                places |= {stored: (conversion, tuple(value.shape)) for stored, value in saved.items()}
                done |= empty.keys()

        @lru_cache(maxsize=1)  # the tensors of one conversion are written one after another
        def saved_by(conversion: Conversion) -> dict[str, Tensor]:
            return conversion.saved({name: state[name] for name in conversion.names})

        def tensor(stored: str) -> Tensor:
            conversion, _ = places[stored]
            return state[conversion.names[0]] if conversion.rule is None else saved_by(conversion)[stored]

        def blocks(stored: str) -> Iterator[Tensor]:
            conversion, _ = places[stored]
            if conversion.rule is None:
                return in_blocks(state, conversion.names[0])
            return in_blocks({stored: tensor(stored)}, stored)

        return {stored: shape for stored, (_, shape) in places.items()}, ComputedState(places, tensor, blocks)

    def _by_rules(self, name: str, shape: tuple[int, ...]) -> Conversion:
        """How a tensor that these files do not have would be stored in them."""
        if self.rules:
            renamed = _reverted({name: torch.empty(shape, device="meta")}, self.model, self.rules)
            if len(renamed) == 1:
                return Conversion(tuple(renamed), (name,))
        return Conversion((name,), (name,))


def plain_naming(stored: Mapping[str, TensorInfo], schema: Schema) -> Naming | None:
    """The naming of files by the schema alone; None if transformers' rules are needed."""
    conversions: dict[str, Conversion] = {}
    ignored = []
    for stored_name in stored:
        name = stored_name
        if name not in schema.all_names and f"{schema.prefix}.{name}" in schema.all_names:
            name = f"{schema.prefix}.{name}"
        if name not in schema.all_names and (schema.buffers or STORED_BUFFERS).search(stored_name):
            ignored.append(stored_name)
        elif name not in schema.all_names or name in conversions:
            return None
        else:
            conversions[name] = Conversion((stored_name,), (name,))
    return Naming(tuple(conversions.values()), tuple(ignored))


def library_naming(
    stored: Mapping[str, TensorInfo], model: nn.Module, buffers_of: re.Pattern[str] | None = None
) -> Naming:
    """The naming of files by transformers' rules for a model (its weights on the meta device).

    `buffers_of` matches stored tensors that are no weights, where that is known.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    rules: list[Any] = get_model_conversion_mapping(model)  # type: ignore[arg-type]
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    expected, prefix = model.state_dict(), getattr(model, "base_model_prefix", "")
    plain: dict[str, str] = {}
    grouped: dict[str, list[tuple[str, str]]] = {}
    unknown: list[tuple[str, str]] = []
    repeated = []
    for stored_name in sorted(stored, key=dot_natural_key):
        name, pattern = rename_source_key(stored_name, renamings, converters, prefix, expected)
        if name not in expected and stored_name in expected:
            name, pattern = rename_source_key(stored_name, [], [], prefix, expected)
        if name not in expected:
            unknown.append((stored_name, name))
        elif pattern is not None:
            grouped.setdefault(name, []).append((stored_name, pattern))
        elif name in plain:
            repeated.append((plain[name], stored_name))
        else:
            plain[name] = stored_name
    used = tuple(rule for rule in rules if rule.was_used())
    conversions = [Conversion((stored_name,), (name,)) for name, stored_name in plain.items()]
    for first, parts in grouped.items():
        rule = by_pattern[parts[0][1]], tuple(pattern for _, pattern in parts)
        names = tuple(stored_name for stored_name, _ in parts)
        conversions.append(_completed(Conversion(names, (first,), rule, model, used), stored))
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    buffers = {name for name, _ in model.named_buffers()}
    ignored = {
        stored_name
        for stored_name, name in unknown
        if name in buffers
        or any(re.search(pattern, name) for pattern in patterns)
        or STORED_BUFFERS.search(stored_name)
        or (buffers_of is not None and buffers_of.search(name))
        or stored[stored_name].dtype not in FLOATS
    }
    return Naming(
        tuple(conversions),
        tuple(stored_name for stored_name, _ in unknown if stored_name in ignored),
        tuple(stored_name for stored_name, _ in unknown if stored_name not in ignored),
        tuple(repeated),
        model,
        used,
    )


def _completed(conversion: Conversion, stored: Mapping[str, TensorInfo]) -> Conversion:
    """The conversion with all of its names; saved under the model's names if transformers cannot revert its rule."""
    empty = {name: torch.empty(stored[name].shape, device="meta") for name in conversion.stored}
    try:
        loaded = conversion.loaded(empty)
    except Exception:  # the stored tensors do not fit each other, which a check of the shapes reports
        return conversion
    whole = replace(conversion, names=tuple(loaded))
    try:
        saved = whole.saved(loaded)
    except Exception:
        saved = {}
    same = {name: value.shape for name, value in saved.items()} == {name: value.shape for name, value in empty.items()}
    return whole if same else _OneWay(whole.stored, whole.names, whole.rule, whole.model, whole.rules)


class _OneWay(Conversion):
    """A conversion that is saved under the model's names, which transformers reads, too."""

    def saved(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensors[name] for name in self.names}


def _converted(rule: Rule, first: str, tensors: Mapping[str, Tensor], model: nn.Module | None) -> dict[str, Tensor]:
    converter, patterns = deepcopy(rule[0]), rule[1]
    for (name, tensor), pattern in zip(tensors.items(), patterns, strict=True):
        converter.add_tensor(first, name, pattern, tensor)
    assert model is not None
    values = converter.convert(first, model=model, config=model.config)
    return {name: value[0] if isinstance(value, list) else value for name, value in values.items()}


def _reverted(tensors: dict[str, Tensor], model: Any, rules: Sequence[Any]) -> dict[str, Tensor]:
    from transformers.core_model_loading import revert_weight_conversion

    before = getattr(model, "_weight_conversions", None)
    model._weight_conversions = list(rules)
    try:
        reverted: dict[str, Tensor] = revert_weight_conversion(model, tensors)
    finally:
        model._weight_conversions = before
    return {name: value.contiguous() for name, value in reverted.items()}
