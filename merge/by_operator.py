"""Any number of models and an operator: which alignment, which weights. All is chosen on the select text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..align.families import family
from ..align.methods import Method
from ..align.universe import Universe
from ..eval.loss import Losses, LossMeter
from ..eval.targets import shown
from .choosing import Choice, Chooser, climb, closed_forms
from .measure import weighed
from .operators.combined import Combined, Known
from .operators.soup import WeightSearch
from .operators.statistics import fisher_diagonal, input_moments
from .path import blend
from .recipes.recipe import Recipe, Segment, Setting
from .search import SURE


@dataclass(frozen=True)
class Average:
    """The models under one alignment, and what their plain average loses on the select text."""

    aligned: Universe
    losses: Losses


@dataclass(eq=False)
class OperatorChooser(Chooser):
    """Tries alignments and weights of some models, on the select part of their text."""

    recipe: Recipe

    @property
    def base(self) -> int:
        """How many models stand before those that are merged: 0 or 1."""
        return int(self.recipe.operator.needs_base)

    def align(self, *, in_table: bool) -> Universe:
        """The models next to each other, by the alignment that is asked for."""
        if self.plan.alignment != "auto":
            return self.aligned_by(self.plan.alignment)
        meter = LossMeter(self.config, self.text.select, device=self.device)
        members = [meter(state) for state in self.states[self.base :]]
        mean = weighed(members, [1 / len(members)] * len(members))
        methods = closed_forms("auto", in_table=in_table, all_of_them=True)
        chosen = climb(
            methods,
            self._average,
            is_flat=lambda best: not _is_surely_positive(best.losses - mean),
            is_lower=lambda other, best: _is_surely_positive(best.losses - other.losses),
        )
        return chosen.aligned

    def _average(self, method: Method) -> Average:
        aligned = self.aligned_by(method)
        states = aligned.states[self.base :]
        losses = self.meter("choosing the alignment", aligned.config, 1)(blend(states, [1 / len(states)] * len(states)))
        self.tried[method] = losses.mean
        return Average(aligned, losses)

    def choose(self, aligned: Universe) -> Choice:
        """What the operator makes of the aligned models, with the weights that are asked for."""
        statistics = self._statistics(aligned)
        recipe, soup = self._weighted(aligned, statistics)
        state = self._combined(recipe, aligned, statistics)
        record = {
            "method": aligned.alignment.method,
            "score": aligned.scores[-1],
            "rounds": len(aligned.scores) - 1,
            "max_log_prob_error": aligned.max_log_prob_error,
            "tried": self.tried,
        }
        return Choice(aligned, state, record, f"the merge by {recipe.operator.name}", recipe=recipe, soup=soup)

    def _statistics(self, aligned: Universe) -> Known:
        """The statistics that the operator wants, of every model where it lies now."""
        kind = self.recipe.operator.knows
        if kind is None:
            return ()
        blocks, advance, device = self.blocks_to_look_at(), self.progress.advance, self.device
        self.progress.stage(f"statistics for {self.recipe.operator.name}", len(aligned.states) * len(blocks))
        if kind == "fisher":
            return [
                fisher_diagonal(state, aligned.config, blocks, seed=self.plan.seed, device=device, on_block=advance)
                for state in aligned.states
            ]
        table, ids = family(aligned.config), shown(blocks)
        return [input_moments(state, aligned.config, table, ids, on_block=advance) for state in aligned.states]

    def _weighted(self, aligned: Universe, statistics: Known) -> tuple[Recipe, dict[str, Any] | None]:
        """The recipe with the weights that the select text asks for, and what the report says of their choice."""
        if self.plan.soup == "uniform":
            return self.recipe, None
        soup, operator, count = self.plan.soup, self.recipe.operator, len(self.recipe.models)
        values = self.recipe.values(list(aligned.states[0]))
        meter = LossMeter(aligned.config, self.text.select, device=self.device)

        def measure(weights: tuple[float, ...]) -> Losses:
            self.progress.advance()
            given = {name: {**own, "weight": list(weights)} for name, own in values.items()}
            return meter(Combined(operator, aligned.states, given, seed=self.plan.seed, known=statistics))

        self.progress.stage(f"choosing weights ({soup})")
        search = WeightSearch(measure, count, simplex=not self.base)
        weights = search.greedy() if soup == "greedy" else search.search()
        return _reweighted(self.recipe, weights), {
            "kind": soup,
            "weights": list(weights),
            "evaluations": len(search.losses),
            "select_loss": search.loss(weights),
            "select_loss_uniform": search.loss(search.uniform()),
        }

    def _combined(self, recipe: Recipe, aligned: Universe, statistics: Known) -> Mapping[str, Tensor]:
        values = recipe.values(list(aligned.states[0]))
        lazy = Combined(recipe.operator, aligned.states, values, seed=self.plan.seed, known=statistics)
        self.progress.stage(f"merging ({recipe.operator.name})", len(values))
        state = {}
        for name in values:
            state[name] = lazy[name]
            self.progress.advance()
        return state


def _is_surely_positive(difference: Losses) -> bool:
    return difference.mean > SURE * difference.stderr


def _reweighted(recipe: Recipe, weights: Sequence[float]) -> Recipe:
    shared = {key: setting for key, setting in recipe.shared.items() if key != "weight"}
    each = recipe.segments[0].each or ({},) * len(recipe.models)
    own = tuple({**settings, "weight": Setting.of(weight)} for settings, weight in zip(each, weights, strict=True))
    return replace(recipe, shared=shared, segments=(Segment(each=own),))
