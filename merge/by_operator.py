"""Any number of models and an operator: which alignment, which weights. All is chosen on the select text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ..align.alignment import Alignment
from ..align.families import family
from ..align.methods import Method
from ..align.universe import Universe
from ..checkpoint.optimizer_evidence import Evidence
from ..checkpoint.serialization import digest
from ..eval.loss import Losses, LossMeter, weighed
from ..eval.targets import shown
from ..eval.tasks.task_set import TaskSet
from ..eval.text_hashes import TextHashes
from .choosing import Choice, Chooser, climb, closed_forms
from .operators.combined import Combined, Known
from .operators.statistics import fisher_diagonal, input_moments
from .path import blend
from .plans import CurvePlan, SearchPlan
from .recipes.recipe import Recipe
from .saved_path import endpoint_digests
from .simplex import Star
from .task_scores import module_of
from .training.fitting import learning_record, movable, started, training_record
from .training.training_state import TrainingState
from .verify import require_same_function
from .weight_search.chosen import ChosenWeights, WeightChooser
from .weight_search.objective import MergeWithWeights, Score
from .weight_search.search_state import SearchState
from .weight_search.weight_table import WeightSpace


@dataclass(frozen=True)
class Average:
    """The models under one alignment, and what their plain average loses on the select text."""

    aligned: Universe
    losses: Losses


@dataclass(frozen=True)
class Fitted:
    """What the report says of an alignment's learning and of the centre of a star, the text that they were fitted to,
    and where the training is kept until the result is saved.
    """

    learning: Mapping[str, Any] | None = None
    star: Mapping[str, Any] | None = None
    seen: TextHashes = field(default_factory=TextHashes)
    run: TrainingState | None = None


@dataclass(frozen=True)
class Arms:
    """The models under one alignment, and their star."""

    aligned: Universe
    path: Star


@dataclass(eq=False)
class OperatorChooser(Chooser):
    """Tries alignments and weights of some models, on the select part of their text."""

    recipe: Recipe
    tasks: TaskSet | None = None
    fitted: Fitted = field(init=False, default_factory=Fitted)

    @property
    def base(self) -> int:
        """How many models stand before those that are merged: 0 or 1."""
        return int(self.recipe.operator.needs_base)

    def align(self, *, in_table: bool) -> Universe:
        """The models next to each other, by the alignment that is asked for."""
        if self.plan.alignment != "auto" and self.plan.alignment != "learned":
            return self.aligned_by(self.plan.alignment)
        meter = LossMeter(self.config, self.text.select, device=self.device)
        members = [meter(state) for state in self.states[self.base :]]
        mean = weighed(members, [1 / len(members)] * len(members))
        methods = closed_forms(self.plan.alignment, in_table=in_table, all_of_them=True)
        chosen = climb(
            methods,
            self._average,
            is_flat=lambda best: not (best.losses - mean).is_surely_positive,
            is_lower=lambda other, best: (best.losses - other.losses).is_surely_positive,
        )
        learns = self.plan.alignment == "learned" and self.plan.path == "linear"  # else with the centre of a star
        return self._learned(chosen) if learns else chosen.aligned

    def _learned(self, start: Average) -> Universe:
        """The models with their alignment learned, or as they were where their average loses no less then."""
        plan = self.plan.learn
        labels, fitter = self.training(start.aligned, plan, plan.training)
        trained = fitter.learn_all(start.aligned, self.states, plan)
        learned = self._measured(self.moved(trained.alignments))
        lower = (start.losses - learned.losses).is_surely_positive
        record = {**learning_record(plan, trained, start.aligned.alignment.method), "fit_on": labels}
        self.fitted = Fitted(record, seen=TextHashes.of(fitter.fit[label] for label in labels), run=fitter.run)
        return (learned if lower else start).aligned

    def _average(self, method: Method) -> Average:
        return self._measured(self.aligned_by(method))

    def _measured(self, aligned: Universe) -> Average:
        states = aligned.states[self.base :]
        losses = self.meter("choosing the alignment", aligned.config, 1)(blend(states, [1 / len(states)] * len(states)))
        self.tried[aligned.alignment.method] = losses.mean
        return Average(aligned, losses)

    def choose(self, aligned: Universe, trained_by: Sequence[Evidence] = ()) -> Choice:
        """What the operator makes of the aligned models, with the weights that are asked for; the centre of their star
        is trained by the optimizer that suits all.
        """
        star = None
        if isinstance(self.plan.path, CurvePlan):
            star = self._star(aligned, self.plan.path.for_endpoints([evidence.optimizer for evidence in trained_by]))
            aligned = star.aligned
        statistics = self._statistics(aligned)
        weights = self._weighted(aligned, statistics)
        recipe = self.recipe if weights is None else weights.recipe
        lazy = self._lazy(recipe, aligned, statistics)
        state: Mapping[str, Tensor] = lazy if self.plan.max_memory is not None else self._in_memory(lazy)
        if star is not None:
            state = star.path.centre
        record = {
            "method": aligned.alignment.method,
            "score": aligned.scores[-1],
            "rounds": len(aligned.scores) - 1,
            "max_log_prob_error": aligned.max_log_prob_error,
            "learning": self.fitted.learning,
            "tried": self.tried,
        }
        maker, refit = f"the merge by {recipe.operator.name}" if star is None else "the centre of the star", None
        if self.plan.refit:
            shares = recipe.plain_weights()
            assert shares is not None, "require_sense"
            state, refit = self.refit(state, aligned, shares)
        if aligned.alignment.method == "learned":
            merged, state = state, aligned.neutral(state)
            what = f"taking the learned gauge out of {maker}"
            require_same_function(merged, state, aligned.config, what, seed=self.plan.seed)
        choice = Choice(
            aligned,
            state,
            record,
            maker,
            training=self.fitted.star or {},
            star=None if star is None else star.path,
            recipe=recipe,
            refitted=refit,
            seen=self.fitted.seen,
            run=self.fitted.run,
        )
        if weights is None:
            return choice
        equal = aligned.neutral(self._lazy(weights.equal, aligned, statistics))
        return replace(choice, soup=weights.record, equal=equal, run=weights.run or choice.run)

    def _star(self, start: Universe, curve: CurvePlan) -> Arms:
        """The aligned models with arms to a trained centre, and their alignment learned with it where asked for."""
        shares = self.recipe.plain_weights()
        assert shares is not None, "require_sense"
        with_alignment = self.plan.alignment == "learned"
        labels, fitter = self.training(start, (curve, with_alignment), curve.training)
        ends, moving, config = start.states, None, start.config
        if with_alignment:
            ends, moving = movable(start, self.states, fitter.fit)
            config = Alignment("learned").config(config)
        self.progress.stage("starting the centre")
        middle = dict(started(blend(ends, shares), ends, shares, curve, family(config)))
        trained, curve = fitter.star(Star(tuple(ends), (middle,), tuple(shares)), config, curve, moving)
        aligned, star, learning = start, trained.path, None
        if with_alignment:
            aligned = self.moved(trained.alignments)
            star = star.moved(aligned.states, star.bends)
            learning = {"start": start.alignment.method, "with_bends": True}
        meter = self.meter("choosing: the centre, or the average", aligned.config, 2)
        average = meter(blend(star.ends, shares)).mean
        record = {**training_record(curve, trained), "kind": "star", "fit_on": labels}
        record |= {"select_loss": meter(star.centre).mean, "select_loss_average": average}
        seen = TextHashes.of(fitter.fit[label] for label in labels)
        self.fitted = Fitted(learning, record, seen, fitter.run)
        return Arms(aligned, star)

    def _in_memory(self, lazy: Combined) -> dict[str, Tensor]:
        self.progress.stage(f"merging ({self.recipe.operator.name})", len(lazy))
        state = {}
        for name in lazy:
            state[name] = lazy[name]
            self.progress.advance()
        return state

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

    def _weighted(self, aligned: Universe, statistics: Known) -> ChosenWeights | None:
        """The weights that the text asks for; None where they are given."""
        if not self.plan.chooses_weights:
            return None
        search = self.plan.weight_search
        granularity = search.granularity if search is not None else "model"
        space = WeightSpace.of(self.recipe, list(aligned.states[0]), granularity)
        merge = MergeWithWeights(space, tuple(aligned.states), statistics, self.plan.seed)
        chooser = WeightChooser(
            self.plan,
            self._score(aligned),
            aligned.config,
            self.device,
            self.progress,
            self._fit,
            self._run(search, aligned),
        )
        return chooser.choose(merge)

    def _score(self, aligned: Universe) -> Score:
        """What weights are judged by: the loss on the select text, or the share of wrong answers to its tasks."""
        tasks, config, device = self.tasks, aligned.config, self.device
        if tasks is None or self.plan.objective != "task":
            return LossMeter(config, self.text.select, device=device)
        tokenizer, context = self.inputs.tokenizer(), self.inputs.context

        def wrong(state: Mapping[str, Tensor]) -> Losses:
            scores = tasks.scores(module_of(state, config), tokenizer, "select", context=context, device=device)
            return Losses({label: 1 - values for label, values in scores.per_block.items()})

        return wrong

    def _fit(self) -> Mapping[str, Tensor]:
        search = self.plan.weight_search
        assert search is not None
        return self.text.fit(search.tokens(self.inputs.context))

    def _run(self, search: SearchPlan | None, aligned: Universe) -> SearchState | None:
        """Where a search by evolution is kept, known by its models, text and settings; None without an output."""
        if self.beside is None or search is None or search.method != "cma":
            return None
        identity = {
            "models": endpoint_digests(self.inputs.members),
            "align": aligned.alignment.method,
            "recipe": self.recipe.to_dict(),
            "plan": repr((search, self.plan.seed, self.plan.objective)),
            "text": digest(self.text.select),
            **({"tasks": self.tasks.record()} if self.tasks is not None else {}),
        }
        return SearchState.beside(self.beside, identity)

    def _lazy(self, recipe: Recipe, aligned: Universe, statistics: Known) -> Combined:
        values = recipe.values(list(aligned.states[0]))
        return Combined(recipe.operator, aligned.states, values, seed=self.plan.seed, known=statistics)
