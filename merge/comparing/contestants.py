"""The contestants of a comparison: methods with their recipes, and how far the budget of each goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...checkpoint.errors import BadInput
from ..plans import MergePlan, SearchPlan
from ..reading import fit_tokens
from ..recipes.recipe import Recipe
from ..weight_search.gradient import EVALUATIONS
from .methods import AVERAGE, MethodSpec, method_specs, usual_methods
from .plan import ComparePlan

SLOPE_PASSES = 3  # what a step along slopes costs, in forward passes
STEPS, FEWEST_BLOCKS, MOST_BLOCKS = 40, 4, 16  # of a search along slopes: its steps, and the blocks of one


@dataclass(frozen=True)
class Contestant:
    """A method with its recipe, and how its weights are searched for: None where it has none."""

    name: str
    recipe: Recipe
    search: SearchPlan | None

    @property
    def on_base(self) -> bool:
        """Whether it needs the base."""
        return self.recipe.operator.needs_base

    def plan(self, asked: MergePlan) -> MergePlan:
        """The plan of a merge by it; only a search chooses by tasks."""
        return replace(asked, search=self.search, objective=asked.objective if self.search else "mean")

    def fit_tokens(self, asked: MergePlan, context: int) -> int:
        """The tokens of every label that it is fitted on."""
        return fit_tokens(self.plan(asked), self.recipe, context)

    def within(self, evaluations: int, select: int) -> Contestant:
        """The same with as many blocks in a step along slopes as a budget of evaluations of `select` blocks allows."""
        if self.search is None or self.search.method != "gradient":
            return self
        blocks = min(MOST_BLOCKS, max(FEWEST_BLOCKS, evaluations * select // (SLOPE_PASSES * STEPS)))
        return replace(self, search=replace(self.search, batch=blocks))

    def cost(self, asked: MergePlan, context: int, select: int, report: int) -> float:
        """About what it reads, in blocks: those of its search, of its statistics, and of what measures it."""
        search = self.search
        if search is not None and search.method == "gradient":
            return select + report + SLOPE_PASSES * search.steps * search.batch + EVALUATIONS * select
        tried = 0 if search is None else search.evaluations
        passes = {"fisher": SLOPE_PASSES, "inputs": 1}.get(str(self.recipe.operator.knows), 0)
        looked_at = passes * len(self.recipe.models) * self.fit_tokens(asked, context) / context
        return select * (1 + tried) + report + looked_at


def contestants(models: Sequence[str], plan: ComparePlan, base: str | None) -> list[Contestant]:
    """The plain average, then the methods: first those that take no base.

    Raises BadInput for a method that does not take these models.
    """
    average = Contestant(AVERAGE, MethodSpec("linear").recipe(models, None), None)
    specs = method_specs(plan.methods) or usual_methods(len(models), with_base=base is not None)
    recipes = [(spec.word, spec.recipe(models, base)) for spec in specs]
    if any(not recipe.weighs_alike for _, recipe in recipes):
        raise BadInput("weights are searched for here: leave t out, or merge with it")
    asked = [Contestant(word, recipe, _search(recipe, plan)) for word, recipe in recipes]
    return [average, *sorted(asked, key=lambda one: one.on_base)]


def _search(recipe: Recipe, plan: ComparePlan) -> SearchPlan | None:
    """How weights of a recipe are searched for: along slopes where there are any, and the text chooses."""
    operator = recipe.operator
    if not operator.is_weighed or len(recipe.models) < 2:
        return None
    if operator.slopes is None or plan.objective == "task":
        return SearchPlan("coordinate", evaluations=plan.evaluations)
    return SearchPlan("gradient", plan.granularity, evaluations=plan.evaluations, steps=STEPS)
