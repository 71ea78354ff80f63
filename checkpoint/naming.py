"""The names of a model's tensors in its files, and in memory.

transformers renames and regroups on loading: the output matrix of GPT-NeoX is stored as ``embed_out``, every expert of
Mixtral by itself. Its own rules are applied here, in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .headers import TensorInfo
from .rows import in_blocks

if TYPE_CHECKING:
    from torch import nn

    from .model import Schema

# Buffers that earlier versions of transformers stored as if they were weights, of architectures without a table.
STORED_BUFFERS = re.compile(
    r"(^|\.)(attn|attention|crossattention)\.(bias|masked_bias|causal_mask)$"
    r"|rotary_emb\.(inv_freq|cos_cached|sin_cached)$|(^|\.)position_ids$"
)
FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
Rule = tuple[Any, tuple[str, ...]]  # transformers' converter, and the pattern that every stored name matched


@dataclass(frozen=True)
class Group:
    """Tensors of the model (`names`) that are made of some in the files (`stored`); one of one, without a `rule`."""

    stored: tuple[str, ...]
    names: tuple[str, ...]
    rule: Rule | None = field(default=None, compare=False)
    model: nn.Module | None = field(default=None, repr=False, compare=False)
    rules: tuple[Any, ...] = field(default=(), repr=False, compare=False)

    def loaded(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the model, of those in the files."""
        if self.rule is None:
            return {self.names[0]: tensors[self.stored[0]]}
        return _converted(self.rule, self.names[0], {name: tensors[name] for name in self.stored}, self.model)

    def saved(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors in the files, of those of the model."""
        if self.rule is None:
            return {self.stored[0]: tensors[self.names[0]]}
        return _reverted({name: tensors[name] for name in self.names}, self.model, self.rules)


@dataclass(frozen=True)
class Naming:
    """How the tensors of one model are stored: `groups` of them, and stored tensors that are no weights (`ignored`).

    `unknown` are stored tensors that the model has no place for, `repeated` names under which one is stored twice.
    """

    groups: tuple[Group, ...]
    ignored: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    repeated: tuple[tuple[str, str], ...] = ()
    model: nn.Module | None = field(default=None, repr=False, compare=False)
    rules: tuple[Any, ...] = field(default=(), repr=False, compare=False)

    @property
    def foreign(self) -> tuple[str, ...]:
        """Stored tensors that are no weights of the model."""
        return (*self.unknown, *self.ignored)

    def by_name(self) -> dict[str, Group]:
        """The group of every tensor of the model."""
        return {name: group for group in self.groups for name in group.names}

    def renamed(self, names: Mapping[str, str]) -> Naming:
        """The same files, some tensors of the model under other names, which they are saved under."""
        groups = tuple(
            _OneWay(group.stored, (names[group.names[0]],)) if group.names[0] in names else group
            for group in self.groups
        )
        return replace(self, groups=groups)

    def as_stored(
        self, shapes: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]
    ) -> tuple[dict[str, tuple[int, ...]], Mapping[str, Tensor]]:
        """The shapes and the tensors of a state under the names that these files have, block by block where they can.

        What the files do not have, such as an output matrix that was tied, goes by the library's rules.
        """
        places: dict[str, tuple[Group, tuple[int, ...]]] = {}
        groups = self.by_name()
        done: set[str] = set()
        for name in shapes:
            group = groups.get(name) or self._by_rules(name, shapes[name])
            if any(other not in shapes for other in group.names):
                group = Group((name,), (name,))
            if name not in done:
                empty = {other: torch.empty(shapes[other], device="meta") for other in group.names}
                places |= {stored: (group, tuple(value.shape)) for stored, value in group.saved(empty).items()}
                done |= empty.keys()
        return {stored: shape for stored, (_, shape) in places.items()}, _AsStored(places, state)

    def _by_rules(self, name: str, shape: tuple[int, ...]) -> Group:
        """How a tensor that these files do not have would be stored beside theirs."""
        if self.rules:
            renamed = _reverted({name: torch.empty(shape, device="meta")}, self.model, self.rules)
            if len(renamed) == 1:
                return Group(tuple(renamed), (name,))
        return Group((name,), (name,))


class _AsStored(Mapping[str, Tensor]):
    """A state under the names of files."""

    def __init__(self, places: Mapping[str, tuple[Group, tuple[int, ...]]], state: Mapping[str, Tensor]):
        self._places, self._state = places, state
        self._last: tuple[Group, dict[str, Tensor]] | None = None  # a group is written tensor after tensor

    def __getitem__(self, stored: str) -> Tensor:
        group, _ = self._places[stored]
        if group.rule is None:
            return self._state[group.names[0]]
        if self._last is None or self._last[0] is not group:
            self._last = (group, group.saved({name: self._state[name] for name in group.names}))
        return self._last[1][stored]

    def blocks(self, stored: str) -> Iterator[Tensor]:
        """One tensor in blocks of rows."""
        group, _ = self._places[stored]
        if group.rule is None:
            return in_blocks(self._state, group.names[0])
        return in_blocks({stored: self[stored]}, stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def plain_naming(stored: Mapping[str, TensorInfo], schema: Schema) -> Naming | None:
    """The names of files that the schema alone explains; None where transformers' rules are needed."""
    groups: dict[str, Group] = {}
    ignored = []
    for name_there in stored:
        name = name_there
        if name not in schema.all_names and f"{schema.prefix}.{name}" in schema.all_names:
            name = f"{schema.prefix}.{name}"
        if name not in schema.all_names and (schema.buffers or STORED_BUFFERS).search(name_there):
            ignored.append(name_there)
        elif name not in schema.all_names or name in groups:
            return None
        else:
            groups[name] = Group((name_there,), (name,))
    return Naming(tuple(groups.values()), tuple(ignored))


def library_naming(stored: Mapping[str, TensorInfo], model: nn.Module) -> Naming:
    """The names of files by transformers' rules for a model (weights on the meta device)."""
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
    for name_there in sorted(stored, key=dot_natural_key):
        name, pattern = rename_source_key(name_there, renamings, converters, prefix, expected)
        if name not in expected and name_there in expected:
            name, pattern = rename_source_key(name_there, [], [], prefix, expected)
        if name not in expected:
            unknown.append((name_there, name))
        elif pattern is not None:
            grouped.setdefault(name, []).append((name_there, pattern))
        elif name in plain:
            repeated.append((plain[name], name_there))
        else:
            plain[name] = name_there
    used = tuple(rule for rule in rules if rule.was_used())
    groups = [Group((name_there,), (name,)) for name, name_there in plain.items()]
    for first, parts in grouped.items():
        rule = by_pattern[parts[0][1]], tuple(pattern for _, pattern in parts)
        group = _checked(Group(tuple(there for there, _ in parts), (first,), rule, model, used), stored)
        groups.append(group)
    ignored = _is_no_weight(model, stored)
    return Naming(
        tuple(groups),
        tuple(there for there, name in unknown if ignored(there, name)),
        tuple(there for there, name in unknown if not ignored(there, name)),
        tuple(repeated),
        model,
        used,
    )


def _checked(group: Group, stored: Mapping[str, TensorInfo]) -> Group:
    """The group with all of its names; saved under the model's names where the library cannot undo its rule."""
    empty = {name: torch.empty(stored[name].shape, device="meta") for name in group.stored}
    try:
        loaded = group.loaded(empty)
    except Exception:  # stored tensors that do not fit each other: the shapes will say it
        return group
    whole = Group(group.stored, tuple(loaded), group.rule, group.model, group.rules)
    try:
        saved = whole.saved(loaded)
    except Exception:
        saved = {}
    same = {name: value.shape for name, value in saved.items()} == {name: value.shape for name, value in empty.items()}
    return whole if same else _OneWay(group.stored, tuple(loaded), group.rule, group.model, group.rules)


class _OneWay(Group):
    """A group that is saved under the model's names, where transformers finds it, too."""

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
        found: dict[str, Tensor] = revert_weight_conversion(model, tensors)
    finally:
        model._weight_conversions = before
    return {name: value.contiguous() for name, value in found.items()}


def _is_no_weight(model: Any, stored: Mapping[str, TensorInfo]) -> Any:
    """Whether a tensor that the model has no place for is none of its weights: (name in the file, model's name)."""
    patterns = list(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or [])
    buffers = {name for name, _ in model.named_buffers()}
    theirs = re.compile("|".join(f"({pattern})" for pattern in patterns)) if patterns else None

    def ignored(there: str, name: str) -> bool:
        return bool(
            name in buffers
            or (theirs is not None and theirs.search(name))
            or STORED_BUFFERS.search(there)
            or stored[there].dtype not in FLOATS
        )

    return ignored
