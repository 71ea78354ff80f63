"""Plans in words: the options that the fields of a plan are given as, the plan that options make, and back.

A plan is a frozen dataclass whose fields are made by `option`, or are plans themselves. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache, partial
from typing import Any, get_args, get_origin, get_type_hints

# Panels of the help, in the order in which they are shown.
TEXT = "Text to measure on"
ALIGNMENT = "Alignment: how the models are brought together"
MEMBERS = "Members of the ensemble"
PATH = "Two models: the path between them, and the point to save"
OPERATORS = "Any number of models: merging by a method"
TASKS = "Tasks: what the models are asked"
SPECTRUM = "The spectrum: the singular values of the weights"
GATES = "Gates: save nothing unless the merge is good enough"
TRAINING = "Training of curved paths and learned alignments"
RUNNING = "Where and how: memory, precision, device, seed"
PUSHING = "Pushing to the Hub"
PANELS = (TEXT, TASKS, ALIGNMENT, MEMBERS, PATH, OPERATORS, SPECTRUM, GATES, TRAINING, RUNNING, PUSHING)


@dataclass(frozen=True)
class Option:
    """How a field or a parameter is given on the command line: its help, the panel that holds it, its minimum.

    `name` is by default that of the field. `unset` is the word for None, where there is one; `shown_default` is what
    the help says of the default where that takes more words. `read` makes the value of a word; where the field may hold
    a plan of its own, from a word and a function that builds that plan from its options. What is not `recorded` is left
    out by `unusual`.
    """

    help: str
    panel: str | None = None
    minimum: float | None = None
    name: str = ""
    short: str | None = None
    unset: str | None = None
    shown_default: str | None = None
    read: Callable[..., Any] | None = None
    recorded: bool = True

    def named(self, field: str) -> Option:
        """The option of a field or a parameter of this name."""
        return self if self.name else dataclasses.replace(self, name=f"--{field.replace('_', '-')}")

    @property
    def first(self) -> str:
        """Its first name, where it has one to switch it off, too."""
        return self.name.partition("/")[0]


def option(default: Any, help: str, panel: str | None = None, **how: Any) -> Any:
    """A field of a plan with its default, given on the command line as `Option` describes."""
    return dataclasses.field(default=default, metadata={"option": Option(help, panel, **how)})


@dataclass(frozen=True)
class Field:
    """A field of a plan: its type, its option, the plan that it holds or may hold, its default."""

    name: str
    kind: Any
    option: Option | None
    part: type | None
    default: Any

    @property
    def key(self) -> str:
        """The option as a name in Python; fields of several plans may share it."""
        return "option" + self.option.first.replace("-", "_") if self.option else ""

    @property
    def many(self) -> bool:
        """Whether the option can be repeated."""
        return get_origin(self.kind) is Sequence


@cache
def fields_of(plan: type) -> tuple[Field, ...]:
    """The fields of a plan."""
    kinds, described = get_type_hints(plan), []
    for one in dataclasses.fields(plan):
        kind, own = kinds[one.name], one.metadata.get("option")
        part = next((part for part in (kind, *get_args(kind)) if isinstance(part, type) and is_dataclass(part)), None)
        described.append(Field(one.name, kind, own and own.named(one.name), part, one.default))
    return tuple(described)


def options_of(plan: type, only: Collection[str] | None = None) -> list[Field]:
    """The fields that have options, of a plan (or `only` some of it) and of the plans that it holds.

    A field comes before those inside it that share its option.
    """
    own = [field for field in fields_of(plan) if only is None or field.name in only]
    inner = [one for field in own if field.part is not None for one in options_of(field.part)]
    return [*(field for field in own if field.option is not None), *inner]


def option_names(plan: type) -> set[str]:
    """The first names of all options of a plan and of the plans that it holds."""
    return {field.option.first for field in options_of(plan) if field.option is not None}


def build(plan: type, values: Mapping[str, Any], only: Collection[str] | None = None) -> Any:
    """The plan that options make, whose `values` are given by their keys; other fields keep their defaults."""
    given = (field for field in fields_of(plan) if only is None or field.name in only)
    return plan(**{field.name: value_of(field, values) for field in given if field.option or field.part})


def value_of(field: Field, values: Mapping[str, Any]) -> Any:
    """What options make of a field that has one, or that is a plan."""
    option, inner = field.option, [partial(build, field.part, values)] if field.part else []
    if option is None:
        return inner[0]()
    value = tuple(values[field.key] or ()) if field.many else values[field.key]
    if option.read is not None:
        return option.read(value, *inner)
    return None if option.unset is not None and value == option.unset else value


def unusual(plan: Any, usual: Any, idle: Collection[str] = ()) -> list[str]:
    """The options of a plan and its parts that differ from those of another, and what they are, as words.

    Options whose first names are in `idle` are left out, and those that are not `recorded`.
    """
    words: list[str] = []
    kind: type = type(plan)
    for field in fields_of(kind):
        value, default, option = getattr(plan, field.name), getattr(usual, field.name), field.option
        if is_dataclass(value) and is_dataclass(default):
            words += unusual(value, default, idle)
        elif option is None or not option.recorded or value == default or option.first in idle:
            continue
        elif isinstance(value, bool):
            on, _, off = option.name.partition("/")
            words.append(on if value else off)
        else:
            for part in value if isinstance(value, (list, tuple)) else [value]:
                words += [option.name, str(part)]
    return words
