"""Opening a merge beside its parents and their base: checked first, brought to the rows and the form that all have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .base_of_classifiers import as_base, is_base_of_classifiers
from .check import check, open_sources
from .config import DEFAULT_CONTEXT, context_length
from .errors import IncompatibleModels
from .inputs import narrowed, tokenizer_owner
from .labels import labels_of, one_head, rows_by_name
from .loading import Checkpoint, load
from .model import Families
from .one_vocabulary import facts_of
from .positions import one_context
from .source import Source

LAYERS = ("num_hidden_layers", "n_layer", "num_layers")


@dataclass(frozen=True)
class Compared:
    """A merge, its `parents`, and the `base` that these were trained from, or None: tensors of one set of names and
    shapes.

    `whole` are the same models with all their rows, the base last. `rows` is how many rows of the vocabulary are
    compared, None where all have the same; `contexts` says that tables of positions had to be brought to one length.
    `heads` are the tensors of the heads of classifiers whose labels differ, which cannot be compared.
    """

    merge: Checkpoint
    parents: tuple[Checkpoint, ...]
    base: Checkpoint | None
    whole: tuple[Checkpoint, ...]
    rows: int | None
    contexts: bool
    context: int
    heads: frozenset[str] = frozenset()

    @property
    def members(self) -> tuple[Checkpoint, ...]:
        """The merge, the parents, and the base where there is one."""
        return (self.merge, *self.parents, *([self.base] if self.base else []))

    @property
    def tokenizer_owner(self) -> Checkpoint:
        """The model whose tokenizer knows no more than the rows that all have."""
        if self.rows is None:
            return tokenizer_owner(self.whole)
        with_one = [model for model in self.whole if model.has_tokenizer] or list(self.whole)
        return min(with_one, key=lambda model: int(model.facts.get("vocab_size", 0)))


def open_compared(
    models: Sequence[str | Path], base: str | Path | None = None, *, families: Families | None = None, longest: int
) -> Compared:
    """A merge (the first of `models`), its parents and their base, each checked against the merge before weights are
    read. Blocks of text have at most `longest` tokens.

    Raises IncompatibleModels for another architecture, shape, depth or tokenizer; what `check` and `load` raise.
    """
    references = [*models, *([] if base is None else [base])]
    sources = open_sources(references)
    facts = [facts_of(source, families) for source in sources]
    _require_depth(sources, facts)
    apart = _labels_differ(sources, facts)
    shared: list[int] = []
    for place, source in enumerate(sources[1:], start=1):
        pair, is_base = [sources[0], source], base is not None and place == len(sources) - 1
        if is_base and is_base_of_classifiers([facts[place], facts[0]]):
            pair.reverse()
        names = [one.name for one in pair]
        head = pair.index(sources[0]) if apart else None
        result = check(*names, families=families, opened=False, sources=pair, base=is_base, head=head)
        result.require()
        shared += [growth.shared for growth in result.growth if growth is not None]
    opened = [load(name, families=families, source=one) for name, one in zip(references, sources, strict=True)]
    if base is not None and is_base_of_classifiers([facts[-1], facts[0]]):
        opened = [*opened[:-1], as_base(opened[-1], opened[:1], families)]
    if len({bool(model.schema.tied) for model in opened}) > 1:
        opened = [model.untied() for model in opened]
    members, contexts = one_context(one_head(opened, 0 if apart else None, families), families)
    rows = min(shared, default=None)
    if rows is not None:
        members = [narrowed(member, rows, families) for member in members]
    _require_shapes(members)
    context = min(context_length(member.config) or DEFAULT_CONTEXT for member in members)
    limits = [longest, context, *([contexts.shared] if contexts is not None else [])]
    merge, parents = members[0], members[1 : len(models)]
    last = None if base is None else members[-1]
    heads = frozenset(merge.schema.head if apart else ())
    return Compared(merge, tuple(parents), last, tuple(opened), rows, contexts is not None, min(limits), heads)


def _labels_differ(sources: Sequence[Source], facts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one of some classifiers has other labels than the first."""
    labels = [labels_of(one, source.name) for source, one in zip(sources, facts, strict=True)]
    return any(labels[0] and own and rows_by_name(labels[0], own) is None for own in labels[1:])


def _layers(facts: Mapping[str, Any]) -> int | None:
    return next((facts[key] for key in LAYERS if isinstance(facts.get(key), int)), None)


def _require_depth(sources: Sequence[Source], facts: Sequence[Mapping[str, Any]]) -> None:
    depth = _layers(facts[0])
    for source, other in zip(sources[1:], facts[1:], strict=True):
        if facts[0].get("model_type") == other.get("model_type") and _layers(other) != depth:
            raise IncompatibleModels(
                f"'{sources[0].name}' has {depth} layers and '{source.name}' has {_layers(other)}: explain compares "
                "layer with layer, so give models of the same depth"
            )


def _require_shapes(members: Sequence[Checkpoint]) -> None:
    shapes = members[0].schema.shapes
    for member in members[1:]:
        for name in {*shapes, *member.schema.shapes}:
            own, other = shapes.get(name), member.schema.shapes.get(name)
            if own != other:
                raise IncompatibleModels(
                    f"'{name}' is {own or 'missing'} in '{members[0].name}' and {other or 'missing'} in "
                    f"'{member.name}': explain compares models of one shape"
                )
