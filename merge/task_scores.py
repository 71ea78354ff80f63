"""What models score on tasks: the endpoints, their naive average, the merge as it is saved and the ensemble of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..checkpoint.config import build_config
from ..checkpoint.errors import GateRefused
from ..checkpoint.inputs import Inputs
from ..checkpoint.model import empty_model, with_tied
from ..eval.progress import Progress
from ..eval.tasks.task_set import TaskScores, TaskSet
from .path import blend
from .vocabulary import Whole, kept_rows, whole_state

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class TaskResults:
    """Scores on the report documents, the same for all, so that differences are paired; `base` where there is one,
    `equal` of the merge with equal weights, where weights were chosen.
    """

    tasks: tuple[Mapping[str, Any], ...]
    members: tuple[TaskScores, ...]
    naive: TaskScores
    merge: TaskScores
    ensemble: TaskScores
    base: TaskScores | None = None
    equal: TaskScores | None = None

    def best(self, label: str) -> TaskScores:
        """The scores of the best model on one task."""
        return max(self.members, key=lambda scores: scores.label_mean(label))

    def of_merge(self) -> dict[str, dict[str, float]]:
        """Task → score of the merge, and its gains over the best model and over the naive average, JSON-ready."""
        rows = {}
        for label, own in scores_json(self.merge).items():
            gain, over = (_difference(self.merge, other, label) for other in (self.best(label), self.naive))
            rows[label] = {
                **own,
                "gain": gain.mean,
                "gain_stderr": gain.stderr,
                "over_average": over.mean,
                "over_average_stderr": over.stderr,
            }
            if self.equal is not None:
                over = _difference(self.merge, self.equal, label)
                rows[label] |= {"over_equal": over.mean, "over_equal_stderr": over.stderr}
        return rows

    def pass_gates(self, least: Mapping[str, float]) -> None:
        """Raise GateRefused where the merge scores less than is asked for, by task."""
        for label, bound in least.items():
            score = self.merge.label_mean(label)
            if not score >= bound:
                raise GateRefused(
                    f"refused: the merge scores {100 * score:.1f} % on '{label}', below --require-task {label}>="
                    f"{100 * bound:g}%; nothing was saved"
                )


def _difference(one: TaskScores, other: TaskScores, label: str) -> TaskScores:
    """The paired difference on one task."""
    return TaskScores({label: one.per_block[label] - other.per_block[label]})


def scores_json(scores: TaskScores) -> dict[str, dict[str, float]]:
    """Task → score and standard error, JSON-ready."""
    return {
        label: {"score": own.mean, "stderr": own.stderr}
        for label, own in ((label, TaskScores({label: values})) for label, values in scores.per_block.items())
    }


def paired_json(scores: TaskScores, others: Mapping[str, Sequence[TaskScores]]) -> dict[str, dict[str, float]]:
    """Task → score and standard error; by every name of `others`, the paired difference from the best of these models
    on that task, and its standard error; JSON-ready.
    """
    rows = scores_json(scores)
    for label, row in rows.items():
        for name, models in others.items():
            difference = _difference(scores, max(models, key=lambda model: model.label_mean(label)), label)
            row |= {name: difference.mean, f"{name}_stderr": difference.stderr}
    return rows


def module_of(state: Mapping[str, Tensor], config: PretrainedConfig) -> nn.Module:
    """The model of a configuration with the weights of a state, float32."""
    model = empty_model(config)
    weights = {name: value.float() for name, value in with_tied(state, model).items()}
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(False)


def module_as_saved(whole: Whole, dtype: torch.dtype) -> nn.Module:
    """A merge as it is read back from disk."""
    return module_of({name: whole.state[name].to(dtype) for name in whole.state}, build_config(whole.facts, "merge"))


def task_results(
    tasks: TaskSet,
    inputs: Inputs,
    whole: Whole,
    base: int,
    dtype: torch.dtype,
    equal: Whole | None = None,
    *,
    device: str,
    progress: Progress,
) -> TaskResults:
    """The scores of everything that a merge is held against, on the report documents; `equal` is the merge with equal
    weights, where weights were chosen.
    """
    from ..eval.ensemble import Ensemble  # which imports all of transformers' modelling code

    members, first = inputs.members[base:], inputs.first
    progress.stage("asking the tasks", len(members) + 3 + base + (equal is not None))

    def score(model: nn.Module) -> TaskScores:
        scores = tasks.scores(model, inputs.tokenizer(), context=inputs.context, device=device)
        progress.advance()
        return scores

    average: Mapping[str, Tensor] = blend([member.state for member in members], [1 / len(members)] * len(members))
    config = first.config
    if whole.rows:
        average = whole_state(average, kept_rows(inputs, None))
        config = build_config(inputs.facts(first.facts), "average")
    return TaskResults(
        tuple(tasks.record()),
        tuple(score(module_of(model.state, model.config)) for model in inputs.whole[base:]),
        score(module_of(average, config)),
        score(module_as_saved(whole, dtype)),
        score(Ensemble.of([(member.state, member.config) for member in members])),
        score(module_of(first.state, first.config)) if base else None,
        score(module_as_saved(equal, dtype)) if equal is not None else None,
    )
