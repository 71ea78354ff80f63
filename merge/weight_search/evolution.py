"""Weights found by evolution: CMA-ES (Hansen & Ostermeier 2001), which needs nothing but the score of a merge.

It draws weights from a normal distribution, ranks them by their score, and moves and reshapes the distribution towards
the better half. A run is its seed and the scores of what it tried: one that was interrupted is replayed from these to
where it was.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ...checkpoint.errors import BadInput
from ..plans import SearchPlan
from .objective import Evaluations
from .weight_table import LARGEST, Table, WeightSpace, rounded

MOST_NUMBERS = 128
SPREAD = {True: 0.5, False: 0.2}  # at the start: of logits (on the simplex), and of weights

Numbers = npt.NDArray[np.float64]


def population(numbers: int) -> int:
    """How many weights are tried before the distribution moves."""
    return 4 + int(3 * math.log(numbers))


def require_budget(space: WeightSpace, plan: SearchPlan) -> None:
    """Raise BadInput for more numbers than evolution finds, and for too few evaluations to move once."""
    numbers = space.free_numbers
    if numbers > MOST_NUMBERS:
        raise BadInput(
            f"--search cma finds {MOST_NUMBERS} numbers at most, and --granularity {plan.granularity} has {numbers} "
            "here: take --search gradient, or a coarser granularity"
        )
    least = population(numbers) + 2  # equal weights first, the middle of the distribution last
    if plan.evaluations < least:
        raise BadInput(f"--search cma tries {least} weights at least for {numbers} numbers; got {plan.evaluations}")


def evolve(
    space: WeightSpace, evaluations: Evaluations, budget: int, *, seed: int, coarse: bool = False
) -> dict[str, Any]:
    """Try at most `budget` tables, equal weights first; the best are taken from the evaluations.

    Where scores are `coarse`, as those on tasks are, so that a small change of weights changes none, it begins with
    steps of twice the length.

    Returns what the report says of it.
    """
    from cma import CMAEvolutionStrategy

    drawn = np.random.default_rng(seed)
    settings: dict[str, Any] = {
        "popsize": population(space.free_numbers),
        "verbose": -9,
        "seed": np.nan,  # numpy's own state is left alone
        **dict.fromkeys(("tolfun", "tolfunhist"), -1.0),  # scores on tasks are the same for many weights
        "tolflatfitness": budget,
        "randn": lambda *shape: drawn.standard_normal(shape),
    }
    if not space.simplex:
        settings["bounds"] = [0.0, LARGEST]
    evaluations(space.equal())
    first = _numbers(space, space.equal())
    strategy = CMAEvolutionStrategy(first, SPREAD[space.simplex] * (1 + coarse), settings)
    generations, tried = 0, 1
    while tried + settings["popsize"] < budget and not strategy.stop():
        candidates = strategy.ask()
        strategy.tell(candidates, [evaluations(_table(space, numbers)).mean for numbers in candidates])
        tried += len(candidates)
        generations += 1
    evaluations(_table(space, strategy.result.xfavorite))
    return {"generations": generations, "population": settings["popsize"]}


def _numbers(space: WeightSpace, table: Table) -> Numbers:
    """The free numbers of a table: logits against the first model's, or the weights."""
    weights: Numbers = np.array(table)
    if not space.simplex:
        return weights.flatten()
    logits: Numbers = np.log(weights)
    return (logits[:, 1:] - logits[:, :1]).flatten()


def _table(space: WeightSpace, numbers: Numbers) -> Table:
    rows = numbers.reshape(len(space.filters), -1)
    if space.simplex:
        logits = np.concatenate([np.zeros((len(rows), 1)), rows], axis=1)
        rows = np.exp(logits - logits.max(1, keepdims=True))
        rows = rows / rows.sum(1, keepdims=True)
    return rounded(rows.tolist())
