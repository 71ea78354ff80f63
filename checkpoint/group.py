"""Opening any number of checkpoints that are to be merged: checked first, in one form, with one tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.checkpoint.check import check
from isthmus.checkpoint.errors import IncompatibleModels
from isthmus.checkpoint.loading import Checkpoint, load
from isthmus.checkpoint.model import Families
from isthmus.checkpoint.provenance import Evidence
from isthmus.checkpoint.source import CONFIGURATION_FILES

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
        """The small files of a merge: the configuration of the first, the tokenizer of the `keeper`."""
        own = {name: path for name, path in self.members[0].files.items() if name in CONFIGURATION_FILES}
        return {name: path for name, path in self.keeper.files.items() if name not in CONFIGURATION_FILES} | own


def open_group(
    models: Sequence[str | Path | Checkpoint],
    *,
    tokenizer_of: str | None = None,
    families: Families | None = None,
    opened: bool = True,
) -> Group:
    """The checkpoints, checked against the first before a weight is downloaded or read; untied alike when one is.

    The tokenizer is that of the model `tokenizer_of`, else of the first that has one. `opened` is as for
    `isthmus.checkpoint.check.check`.

    Raises IncompatibleModels when they cannot be merged, or have vocabularies of different sizes; what `check` and
    `load` raise.
    """
    result = check(*(x.reference if isinstance(x, Checkpoint) else x for x in models), families=families, opened=opened)
    result.require()
    for name, growth in zip(result.models[1:], result.growth, strict=True):
        if growth is not None:
            raise IncompatibleModels(
                f"'{result.models[0]}' and '{name}' share {growth.shared} rows of the vocabulary, and one has more: "
                "such models are merged two at a time, along a path (leave --method out)"
            )
    members = [x if isinstance(x, Checkpoint) else load(x, families=families) for x in models]
    if len({bool(member.schema.tied) for member in members}) > 1:
        members = [member.untied() for member in members]
    named = dict(zip(map(str, models), members, strict=True)).get(str(tokenizer_of))
    keeper = named or next((member for member in members if member.has_tokenizer), members[0])
    return Group(tuple(members), result.provenance, result.licences, keeper)
