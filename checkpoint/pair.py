"""Opening two checkpoints that are to be joined: checked first, in the same form afterwards, with one tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from .check import check
from .checks.finding import Finding
from .config import schema_of
from .group import tokenizer_owner
from .loading import Checkpoint, load
from .model import Families
from .optimizer_evidence import Evidence
from .small_files import CONFIGURATION
from .token_ids import within
from .vocabulary import Growth

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Pair:
    """Two checkpoints of one form. Where the vocabulary of one grew (`growth`), both have the shared rows alone.

    `whole` are the two with all of their rows. `provenance` is what the files of each say of its optimizer,
    `licences` what their cards name, `findings` what `check` says of the two.
    """

    first: Checkpoint
    second: Checkpoint
    whole: tuple[Checkpoint, Checkpoint]
    growth: Growth | None
    provenance: tuple[Sequence[Evidence], ...]
    licences: tuple[str | None, ...]
    findings: tuple[Finding, ...] = ()

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the shared rows: that of the first that has one. Raises BadInput when neither has."""
        if self.growth is not None:
            return self.whole[1 - self.growth.owner].tokenizer()
        return self.keeper.tokenizer()

    @property
    def keeper(self) -> Checkpoint:
        """The model whose tokenizer the merge has: the one with all tokens, else the first that has a tokenizer."""
        if self.growth is not None:
            return self.whole[self.growth.owner]
        return tokenizer_owner(self.whole)

    def small_files(self) -> dict[str, Path]:
        """The small files of a merge: the configuration of the first, and all that goes with the tokenizer."""
        return self.keeper.files | {CONFIGURATION: self.first.files[CONFIGURATION]}


def open_pair(
    a: str | Path | Checkpoint, b: str | Path | Checkpoint, *, families: Families | None = None, opened: bool = True
) -> Pair:
    """Both checkpoints, checked against each other before a weight is downloaded or read; untied alike when one is.

    `opened` is as for `isthmus.checkpoint.check.check`.

    Raises IncompatibleModels when they cannot be merged, and what `check` and `load` raise.
    """
    result = check(*(x.reference if isinstance(x, Checkpoint) else x for x in (a, b)), families=families, opened=opened)
    result.require()
    first, second = (
        x if isinstance(x, Checkpoint) else load(x, families=families, source=source)
        for x, source in zip((a, b), result.sources, strict=True)
    )
    if bool(first.schema.tied) != bool(second.schema.tied):
        first, second = first.untied(), second.untied()
    growth, said, licences = result.growth[0], result.provenance[:2], result.licences[:2]
    if growth is None:
        return Pair(first, second, (first, second), None, said, licences, result.findings)
    narrow_first, narrow_second = (narrowed(side, growth.shared, families) for side in (first, second))
    return Pair(narrow_first, narrow_second, (first, second), growth, said, licences, result.findings)


def narrowed(checkpoint: Checkpoint, rows: int, families: Families | None = None) -> Checkpoint:
    """The same model with the first `rows` rows of its vocabulary."""
    facts = {**within(checkpoint.facts, rows), "vocab_size": rows}
    schema = schema_of(facts, checkpoint.name, families)
    return replace(checkpoint, facts=facts, schema=schema, state=_FirstRows(checkpoint.state, schema.shapes))


class _FirstRows(Mapping[str, Tensor]):
    """A state of which some tensors have more rows than `shapes` says."""

    def __init__(self, state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]):
        self._state, self._shapes = state, shapes

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._state[name]
        return tensor if tuple(tensor.shape) == self._shapes[name] else tensor[: self._shapes[name][0]].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)
