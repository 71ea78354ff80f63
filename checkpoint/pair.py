"""Opening two checkpoints that are to be joined: checked first, in the same form afterwards."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from isthmus.checkpoint.check import check
from isthmus.checkpoint.loading import Checkpoint, load


def open_pair(
    a: str | Path | Checkpoint, b: str | Path | Checkpoint, *, families: Collection[str] | None = None
) -> tuple[Checkpoint, Checkpoint]:
    """Both checkpoints, checked against each other before a weight is downloaded or read; untied alike when one is.

    Raises IncompatibleModels when they cannot be merged, and what `check` and `load` raise.
    """
    check(*(x.reference if isinstance(x, Checkpoint) else x for x in (a, b)), families=families).require()
    first, second = (x if isinstance(x, Checkpoint) else load(x) for x in (a, b))
    if first.config.tie_word_embeddings != second.config.tie_word_embeddings:
        first, second = first.untied(), second.untied()
    return first, second
