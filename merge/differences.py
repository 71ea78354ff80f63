"""What a report says of the weights of a merge: how they differ from those of the models, by layer and kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..checkpoint.rows import ComputedState
from ..eval.explanation_text import explained
from .choosing import Choice
from .job import Job
from .observed import Differences, Observed, cells_of, compared

DIGITS = 6  # of figures in a report


def observed(job: Job) -> Observed | None:
    """What observes a merge that is written as it is computed; None where the models are not comparable to it."""
    if not _has_parents(job) or job.under is not None:
        return None
    states = [member.state for member in job.inputs.members]
    shapes = job.inputs.first.schema.shapes
    return Observed(states, shapes, job.dtype, based=bool(job.base), left_out=_taken_head(job))


def differences(job: Job, choice: Choice) -> Differences | None:
    """The merge, as it will be saved, against its models where they were when it was made.

    None where layers moved or there are no two models, and for what is still to be computed.
    """
    if not _has_parents(job):
        return None
    if choice.observed is not None:
        return choice.observed.differences() if choice.observed.is_complete else None
    if job.is_composed and not job.plan.data:
        return None
    config, states = job.inputs.first.config, [member.state for member in job.inputs.members]
    if choice.aligned is not None:
        config, states = choice.aligned.config, list(choice.aligned.states)
        states = [choice.aligned.neutral(state) for state in states]
    merge = ComputedState(choice.state, lambda name: choice.state[name].to(job.dtype).float())
    ordered = [*states[1:], states[0]] if job.base else states
    job.progress.stage("comparing weights", len(merge))
    left_out = _taken_head(job)
    cells = cells_of([name for name in merge if name not in left_out], config)
    explanation = compared([merge, *ordered], cells, based=bool(job.base), on_tensor=job.progress.advance)
    return Differences(explanation, left_out=left_out)


def _has_parents(job: Job) -> bool:
    return len(job.ends) > 1 and not (job.recipe is not None and job.recipe.moves_anywhere)


def _taken_head(job: Job) -> frozenset[str]:
    """The tensors of a head that all models were given."""
    return frozenset(() if job.inputs.head is None else job.inputs.first.schema.head)


def explanation_record(differences: Differences, report: Mapping[str, Any]) -> dict[str, Any]:
    """What a report says of a merge's weights: sentences and figures, which have six digits."""
    figures = _rounded(differences.explanation.to_dict())
    own = {"compared": round(differences.share, DIGITS), "left_out": sorted(differences.left_out), **figures}
    models = {"endpoints": report["endpoints"], "base": report.get("base")}
    return {"sentences": explained({**own, **models, "alignment": {"how": "as they are"}, "swaps": None}), **own}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
