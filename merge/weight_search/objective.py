"""What weights are judged by: a score with a value for every block, and the record of all that were tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...eval.loss import Losses
from ..operators.combined import Combined, Known
from .weight_table import Table, WeightSpace, rounded

# Weights → a value for every block of every text, lower is better. A loss, or anything that is counted block by block
# in the same way, such as the share of a task's questions that are answered wrongly.
Objective = Callable[[Table], Losses]
Score = Callable[[Mapping[str, Tensor]], Losses]


@dataclass(frozen=True)
class MergeWithWeights:
    """What an operator makes of some `states` with any weights. `statistics` are those that the operator wants."""

    space: WeightSpace
    states: tuple[Mapping[str, Tensor], ...]
    statistics: Known = ()
    seed: int = 0

    def __call__(self, table: Table) -> Combined:
        """The merge with these weights, tensor by tensor when it is looked up."""
        values = self.space.values(table)
        return Combined(self.space.recipe.operator, self.states, values, seed=self.seed, known=self.statistics)

    def scored(self, score: Score) -> Objective:
        """The objective that this score of a state is."""
        return lambda table: score(self(table))


@dataclass(eq=False)
class Evaluations:
    """Tables that were tried, in order, with their scores: each is measured once.

    `measured` are those of a run that was interrupted; `keep` is called with all of them after a new one.
    """

    objective: Objective
    measured: Mapping[Table, Losses] = field(default_factory=dict)
    keep: Callable[[Mapping[Table, Losses]], None] = lambda scores: None
    scores: dict[Table, Losses] = field(init=False, default_factory=dict)

    def __call__(self, table: Table) -> Losses:
        """The score of a table, rounded."""
        key = rounded(table)
        if key not in self.scores:
            is_new = key not in self.measured
            self.scores[key] = self.objective(key) if is_new else self.measured[key]
            if is_new:
                self.keep(self.scores)
        return self.scores[key]

    @property
    def best(self) -> Table:
        """The table of the lowest mean, the first of several."""
        return min(self.scores, key=lambda table: self.scores[table].mean)

    def history(self) -> list[dict[str, Any]]:
        """Where the lowest mean fell: the number of the evaluation, from 1, and that mean; the last one, too."""
        falls: list[dict[str, Any]] = []
        for number, score in enumerate(self.scores.values(), 1):
            if not falls or score.mean < falls[-1]["select_loss"]:
                falls.append({"evaluation": number, "select_loss": score.mean})
        if falls and falls[-1]["evaluation"] < len(self.scores):
            falls.append({**falls[-1], "evaluation": len(self.scores)})
        return falls
