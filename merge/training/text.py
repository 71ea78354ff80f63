"""The text that paths and alignments are trained and selected on: the user's, and what the models write."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...eval.corpora import WRITTEN
from ...eval.samples import Writer
from ..plans import MAX_PASSES, PathTraining

SELECT_BLOCKS = 32  # of all texts together


def with_written(
    writer: Writer, training: PathTraining, context: int, fit: Mapping[str, Tensor], select: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a run is fitted to and selected on: the user's text, if any, and text that the models have written.

    That is as broad as what they have learned; masked language models write none. There is enough of it for as large a
    share of the run as every label has, blocks (blocks, context) like theirs.
    """
    if not writer.writes:
        return dict(fit), dict(select)
    drawn = training.steps * training.batch // len({*fit, WRITTEN})
    wanted = max(SELECT_BLOCKS, int(drawn / MAX_PASSES))
    fit = {**fit, WRITTEN: writer.blocks("fit", wanted, context)}
    if WRITTEN in select:
        return fit, dict(select)
    return fit, {**select, WRITTEN: writer.blocks("select", SELECT_BLOCKS, context)}


def a_little(select: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The blocks by which runs are judged while they go on: `SELECT_BLOCKS`, as many of every label."""
    each = -(-SELECT_BLOCKS // len(select))
    return {label: blocks[:each] for label, blocks in select.items()}
