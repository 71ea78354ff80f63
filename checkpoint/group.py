"""Opening any number of checkpoints that are to be merged: checked first, in one form, with one tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .check import check
from .checks.finding import Finding
from .loading import Checkpoint, load
from .model import Families
from .optimizer_evidence import Evidence
from .small_files import CONFIGURATION
from .small_files import tokenizer_owner as owner_of
from .token_ids import with_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Group:
    """Checkpoints of one form. `provenance` is what the files of each say of its optimizer, `licences` its card's.

    `findings` are what `check` says of them.
    """

    members: tuple[Checkpoint, ...]
    provenance: tuple[Sequence[Evidence], ...]
    licences: tuple[str | None, ...]
    keeper: Checkpoint
    findings: tuple[Finding, ...] = ()

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
    opened: bool = True,
) -> Group:
    """The checkpoints, checked against the first before a weight is downloaded or read; untied alike when one is.

    The tokenizer is that of the model `tokenizer_of`, else of the first that has one. `opened` is as for
    `isthmus.checkpoint.check.check`.

    Raises IncompatibleModels when they cannot be merged, or have vocabularies of different sizes; what `check` and
    `load` raise.
    """
    references = [x.reference if isinstance(x, Checkpoint) else x for x in models]
    result = check(*references, families=families, one_vocabulary=True, opened=opened)
    result.require()
    members = [
        x if isinstance(x, Checkpoint) else load(x, families=families, source=source)
        for x, source in zip(models, result.sources, strict=True)
    ]
    if len({bool(member.schema.tied) for member in members}) > 1:
        members = [member.untied() for member in members]
    named = dict(zip(map(str, models), members, strict=True)).get(str(tokenizer_of))
    keeper = named or tokenizer_owner(members)
    return Group(tuple(members), result.provenance, result.licences, keeper, result.findings)


def tokenizer_owner(members: Sequence[Checkpoint]) -> Checkpoint:
    """The one of some models that gives a merge its tokenizer."""
    return members[owner_of([member.files for member in members])]
