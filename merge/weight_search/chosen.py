"""Weights chosen on text, by whatever way is asked for: what comes of it, and what the report says."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...eval.loss import Losses
from ...eval.progress import Progress
from ..plans import MergePlan, SearchPlan
from ..recipes.recipe import Recipe
from .coordinate import EVALUATIONS, WeightSearch
from .evolution import evolve
from .gradient import learn_weights
from .objective import Evaluations, MergeWithWeights, Objective, Score
from .search_state import SearchState
from .weight_table import Table, WeightSpace

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class ChosenWeights:
    """The recipe with the weights that were chosen, that with `equal` ones, and what the report says of the choice.

    `run` is where a search is kept until its result is saved.
    """

    recipe: Recipe
    equal: Recipe
    record: Mapping[str, Any]
    run: SearchState | None = None


@dataclass(frozen=True)
class WeightChooser:
    """Chooses weights by the `score` of what is merged with them, lower is better.

    `fit` gives at least so many tokens of every label to learn from; `run` is where a search is kept while it goes on.
    """

    plan: MergePlan
    score: Score
    config: PretrainedConfig
    device: str
    progress: Progress
    fit: Callable[[], Mapping[str, Tensor]]
    run: SearchState | None = None

    def choose(self, merge: MergeWithWeights) -> ChosenWeights:
        """The weights that are asked for."""
        began, search = time.monotonic(), self.plan.weight_search
        if search is None or search.method == "coordinate":
            chosen = self._by_coordinates(merge)
        elif search.method == "gradient":
            chosen = self._by_gradient(merge, search)
        else:
            chosen = self._by_evolution(merge, search)
        return replace(chosen, record={**chosen.record, "seconds": round(time.monotonic() - began, 3)})

    def _counted(self, merge: MergeWithWeights) -> Objective:
        """The objective, shown as it is evaluated."""
        objective = merge.scored(self.score)

        def measured(table: Table) -> Losses:
            self.progress.advance()
            return objective(table)

        return measured

    def _by_coordinates(self, merge: MergeWithWeights) -> ChosenWeights:
        self.progress.stage(f"choosing weights ({self.plan.choice_of_weights.removeprefix('a ')})")
        space, evaluations = merge.space, Evaluations(self._counted(merge))
        asked = self.plan.weight_search
        budget = EVALUATIONS if asked is None else min(EVALUATIONS, asked.evaluations)
        search = WeightSearch(lambda weights: evaluations((weights,)), space.models, space.simplex, budget)
        weights = search.greedy() if self.plan.soup == "greedy" else search.search()
        chosen = (weights,) if self.plan.objective == "mean" else self._surely_better(space, evaluations)
        return self._chosen(space, evaluations, chosen, {})

    def _by_gradient(self, merge: MergeWithWeights, search: SearchPlan) -> ChosenWeights:
        fit, evaluations = self.fit(), Evaluations(merge.scored(self.score))
        self.progress.stage(f"learning weights ({search.granularity})", search.steps)
        further = learn_weights(
            merge,
            evaluations,
            fit,
            self.config,
            search,
            seed=self.plan.seed,
            device=self.device,
            on_step=self.progress.advance,
        )
        return self._chosen(merge.space, evaluations, self._surely_better(merge.space, evaluations), further)

    def _by_evolution(self, merge: MergeWithWeights, search: SearchPlan) -> ChosenWeights:
        self.progress.stage(f"choosing weights (cma, {search.granularity})", search.evaluations)
        with self.run.claimed() if self.run is not None else nullcontext():
            measured = self.run.scores() if self.run is not None and self.run.exists() else {}
            self.progress.advance(len(measured))
            keep = self.run.keep if self.run is not None else lambda scores: None
            evaluations = Evaluations(self._counted(merge), measured, keep)
            coarse = self.plan.objective == "task"
            further = evolve(merge.space, evaluations, search.evaluations, seed=self.plan.seed, coarse=coarse)
        return self._chosen(merge.space, evaluations, self._surely_better(merge.space, evaluations), further)

    def _surely_better(self, space: WeightSpace, evaluations: Evaluations) -> Table:
        """The best table, where it is better than equal weights by more than the noise; else these."""
        gain = evaluations(space.equal()) - evaluations(evaluations.best)
        return evaluations.best if gain.is_surely_positive else space.equal()

    def _chosen(
        self, space: WeightSpace, evaluations: Evaluations, table: Table, further: Mapping[str, Any]
    ) -> ChosenWeights:
        search, equal, groups = self.plan.weight_search, space.equal(), len(table)
        record = {
            "kind": "search" if search is not None else self.plan.soup,
            "search": search.method if search is not None else None,
            "granularity": search.granularity if search is not None else "model",
            "objective": self.plan.objective,
            "weights": [sum(column) / groups for column in zip(*table, strict=True)],
            "groups": [{"filter": part, "weights": list(row)} for part, row in zip(space.filters, table, strict=True)],
            "evaluations": len(evaluations.scores),
            "select_loss": evaluations(table).mean,
            "select_loss_uniform": evaluations(equal).mean,
            "history": evaluations.history(),
            **further,
        }
        return ChosenWeights(space.weighed(table), space.weighed(equal), record, self.run)
