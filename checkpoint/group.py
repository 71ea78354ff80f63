"""Opening any number of checkpoints that are to be merged: checked first, in one form, with one tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.checkpoint.check import check
from isthmus.checkpoint.errors import BadInput, IncompatibleModels
from isthmus.checkpoint.loading import Checkpoint, load
from isthmus.checkpoint.model import Families
from isthmus.checkpoint.provenance import Evidence
from isthmus.checkpoint.small_files import CONFIGURATION
from isthmus.checkpoint.small_files import tokenizer_owner as owner_of
from isthmus.checkpoint.token_ids import with_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Group:
    """Checkpoints of one form. `provenance` is what the files of each say of its optimizer, `licences` its card's."""

    members: tuple[Checkpoint, ...]
    provenance: tuple[Sequence[Evidence], ...]
    licences: tuple[str | None, ...]
    keeper: Checkpoint

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of all. Raises BadInput when none has one."""
        return self.keeper.tokenizer()

    def small_files(self) -> dict[str, Path]:
        """The small files of a merge: the configuration of the first, and all that goes with the tokenizer."""
        return self.keeper.files | {CONFIGURATION: self.members[0].files[CONFIGURATION]}

    def facts(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The content of config.json of a merge with `facts`: its token ids are those of the tokenizer's model."""
        return with_token_ids(facts, self.keeper.facts)


def open_group(
    models: Sequence[str | Path | Checkpoint],
    *,
    tokenizer_of: str | None = None,
    families: Families | None = None,
) -> Group:
    """The checkpoints, checked against the first before a weight is downloaded or read; untied alike when one is.

    The tokenizer is that of the model `tokenizer_of`, else of the first that has one.

    Raises IncompatibleModels when they cannot be merged, or have vocabularies of different sizes; what `check` and
    `load` raise.
    """
    result = check(*(x.reference if isinstance(x, Checkpoint) else x for x in models), families=families)
    result.require()
    for name, growth in zip(result.models[1:], result.growth, strict=True):
        if growth is not None:
            raise IncompatibleModels(
                f"'{result.models[0]}' and '{name}' share {growth.shared} rows of the vocabulary, and one has more: "
                "such models are merged two at a time, along a path (leave --method out)"
            )
    members = [
        x if isinstance(x, Checkpoint) else load(x, families=families, source=source)
        for x, source in zip(models, result.sources, strict=True)
    ]
    if len({bool(member.schema.tied) for member in members}) > 1:
        members = [member.untied() for member in members]
    named = dict(zip(map(str, models), members, strict=True)).get(str(tokenizer_of))
    if named is not None and not named.has_tokenizer:
        raise BadInput(f"tokenizer_source is '{named.name}', which has no tokenizer: name a model that has one")
    keeper = named or tokenizer_owner(members)
    return Group(tuple(members), result.provenance, result.licences, keeper)


def tokenizer_owner(members: Sequence[Checkpoint]) -> Checkpoint:
    """The one of some models that gives a merge its tokenizer."""
    return members[owner_of([member.files for member in members])]
