"""Opening two checkpoints that are to be joined: checked first, in the same form afterwards, with one tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.checkpoint.check import check
from isthmus.checkpoint.loading import Checkpoint, load
from isthmus.checkpoint.model import Families

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def open_pair(
    a: str | Path | Checkpoint, b: str | Path | Checkpoint, *, families: Families | None = None
) -> tuple[Checkpoint, Checkpoint]:
    """Both checkpoints, checked against each other before a weight is downloaded or read; untied alike when one is.

    Raises IncompatibleModels when they cannot be merged, and what `check` and `load` raise.
    """
    check(*(x.reference if isinstance(x, Checkpoint) else x for x in (a, b)), families=families).require()
    first, second = (x if isinstance(x, Checkpoint) else load(x, families=families) for x in (a, b))
    if bool(first.schema.tied) != bool(second.schema.tied):
        first, second = first.untied(), second.untied()
    return first, second


def tokenizer_of(first: Checkpoint, second: Checkpoint) -> PreTrainedTokenizerBase:
    """The tokenizer for both: that of the first that has one. Raises BadInput when neither has."""
    return (first if first.has_tokenizer else second).tokenizer()
