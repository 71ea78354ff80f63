"""Weights found by evolution on a score that is known, and a run that is stopped and gone on with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from isthmus.checkpoint.errors import BadInput
from isthmus.eval.loss import Losses
from isthmus.merge.plans import SearchPlan
from isthmus.merge.recipes.recipe import recipe
from isthmus.merge.weight_search.evolution import MOST_NUMBERS, evolve, population, require_budget
from isthmus.merge.weight_search.objective import Evaluations, Objective
from isthmus.merge.weight_search.search_state import SearchState
from isthmus.merge.weight_search.weight_table import Table, WeightSpace

NAMES = ("h.0.w", "h.1.w", "wte.w")
PLACE = {True: [[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]], False: [[0.3, 1.2], [0.9, 0.0], [0.4, 0.4]]}


class Stopped(Exception):
    """A run that is killed."""


def space_of(simplex: bool, models: int = 2) -> WeightSpace:
    names = [f"m{number}" for number in range(models)]
    asked = recipe("linear", names) if simplex else recipe("task_arithmetic", names, base="base")
    return WeightSpace.of(asked, NAMES, "layer")


def bowl(simplex: bool, stops_after: int | None = None) -> Objective:
    place, calls = torch.tensor(PLACE[simplex], dtype=torch.float64), []

    def score(table: Table) -> Losses:
        calls.append(table)
        if stops_after is not None and len(calls) > stops_after:
            raise Stopped
        loss = 3 + (torch.tensor(table, dtype=torch.float64) - place).square().sum()
        return Losses({"text": torch.stack([loss - 0.1, loss + 0.1])})

    return score


@pytest.mark.parametrize("simplex", [True, False])
def test_evolution_finds_the_lowest_point(simplex: bool) -> None:
    evaluations = Evaluations(bowl(simplex))
    record = evolve(space_of(simplex), evaluations, 250, seed=0)
    best = evaluations.best
    assert torch.tensor(best) == pytest.approx(torch.tensor(PLACE[simplex]), abs=0.05)
    assert len(evaluations.scores) <= 250
    assert record["generations"] > 3
    history = evaluations.history()
    losses = [row["select_loss"] for row in history]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == evaluations(best).mean
    assert history[-1]["evaluation"] == len(evaluations.scores)


def test_the_same_seed_tries_the_same_weights() -> None:
    tried = []
    for seed in (1, 1, 2):
        torch.rand(3)
        evaluations = Evaluations(bowl(True))
        evolve(space_of(True), evaluations, 40, seed=seed)
        tried.append(list(evaluations.scores))
    assert tried[0] == tried[1] != tried[2]


@pytest.mark.parametrize("after", [1, 5, 17])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path, after: int) -> None:
    whole = Evaluations(bowl(True))
    evolve(space_of(True), whole, 40, seed=3)
    state = SearchState.beside(tmp_path / "out", {"run": 1})
    with state.claimed(), pytest.raises(Stopped):
        evolve(space_of(True), Evaluations(bowl(True, after), {}, state.keep), 40, seed=3)
    resumed = SearchState.beside(tmp_path / "out", {"run": 1})
    assert resumed.exists()
    kept = resumed.scores()
    assert len(kept) == after
    calls: list[Table] = []
    score = bowl(True)

    def counted(table: Table) -> Losses:
        calls.append(table)
        return score(table)

    evaluations = Evaluations(counted, kept, resumed.keep)
    evolve(space_of(True), evaluations, 40, seed=3)
    assert list(evaluations.scores) == list(whole.scores)
    assert [one.mean for one in evaluations.scores.values()] == [one.mean for one in whole.scores.values()]
    assert len(calls) == len(whole.scores) - after
    resumed.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_run_of_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    state = SearchState.beside(tmp_path / "out", {"run": 1})
    with state.claimed():
        state.keep({((0.5, 0.5),): Losses({"text": torch.zeros(2, dtype=torch.float64)})})
    with pytest.raises(BadInput, match="--restart"):
        SearchState.beside(tmp_path / "out", {"run": 2}).exists()
    (state.folder / "latest.json").write_text('{"identity": {"run": 1}, "tried": [{"weights": 3}]}')
    with pytest.raises(BadInput, match="damaged"):
        state.scores()


def test_a_budget_that_is_too_small_or_a_table_that_is_too_large() -> None:
    space = space_of(False)
    least = population(space.free_numbers) + 2
    require_budget(space, SearchPlan("cma", "layer", least))
    with pytest.raises(BadInput, match=f"tries {least} weights at least for 6 numbers; got {least - 1}"):
        require_budget(space, SearchPlan("cma", "layer", least - 1))
    names = [f"h.{layer}.w" for layer in range(MOST_NUMBERS)]
    large = WeightSpace.of(recipe("linear", ["a", "b", "c"]), names, "matrix")
    with pytest.raises(BadInput, match=f"finds {MOST_NUMBERS} numbers at most, and --granularity matrix has 256 here"):
        require_budget(large, SearchPlan("cma", "matrix", 1000))


def test_any_score_that_is_counted_by_block_is_an_objective() -> None:
    """Such as the share of questions that are answered wrongly."""

    def wrong(table: Table) -> Losses:
        answers = torch.tensor([table[0][0] > share for share in (0.1, 0.4, 0.6, 0.8)], dtype=torch.float64)
        return Losses({"quiz": answers})

    kept: list[Mapping[Table, Losses]] = []
    evaluations = Evaluations(wrong, keep=lambda scores: kept.append(dict(scores)))
    evolve(space_of(True), evaluations, 60, seed=0)
    assert evaluations(space_of(True).equal()).mean == 0.5
    assert evaluations(evaluations.best).mean <= 0.25
    assert len(kept) == len(evaluations.scores)
