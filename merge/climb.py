"""Which alignment a straight line gets: from the cheap to the dear, as far as it pays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..align.alignment import Method
from ..checkpoint.errors import TooLittleText
from .candidate import Candidate, Chooser
from .learn import LearnPlan
from .training_state import TrainingState

Align = Literal["auto"] | Method
CLOSED: tuple[Method, ...] = ("none", "orthogonal", "combined")


def closed_forms(align: Align, *, known: bool) -> tuple[Method, ...]:
    """The closed forms that come first, for a family that is `known` or not; ``learned`` starts from the best."""
    if align == "learned":
        return CLOSED
    if align == "auto":
        return CLOSED[:2] if known else CLOSED[:1]
    return (align,)


def climb(
    chooser: Chooser, align: Align, plan: LearnPlan, labels: Sequence[str], keep_in: Path | None, *, known: bool
) -> tuple[Candidate, TrainingState | None]:
    """The alignment for ``auto`` or ``learned``, on the text of `labels`, and where its training is kept.

    ``auto`` keeps each method only where it lowers the barrier, and ends where that is within the noise. It learns
    nothing of too little text, and nothing that is not `LearnPlan.affordable`.
    """
    chosen = chooser.best(closed_forms(align, known=known))
    if align == "learned":
        return _learned(chooser, chosen, plan, labels, keep_in)
    if not known or chosen.is_flat:
        return chosen, None
    try:
        chosen = chooser.better(chosen, "combined")
        weights = sum(value.numel() for value in chooser.first.state.values())
        if chosen.is_flat or not plan.affordable(weights, chooser.context, chooser.device):
            return chosen, None
        fit = chooser.fit(plan.training.tokens(len(labels), chooser.context))
        return _learned(chooser, chosen, plan.within([len(fit[label]) for label in labels]), labels, keep_in)
    except TooLittleText:
        return chosen, None


def _learned(
    chooser: Chooser, start: Candidate, plan: LearnPlan, labels: Sequence[str], keep_in: Path | None
) -> tuple[Candidate, TrainingState | None]:
    first, second = chooser.first, chooser.second
    kept = TrainingState.of_run(keep_in, first, second, start.aligned, plan, chooser.text, labels)
    return chooser.learned(start, plan, labels, kept), kept
