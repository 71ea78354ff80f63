"""The study for practice: does the optimizer of fine-tuning change how models merge; is a merge a good start?

One base, the embedded adamw-1, is fine-tuned on docstrings and on source code, by AdamW, Muon and Lion, from several
seeds. Every fine-tune on docstrings is merged with every one on code: the barrier, and the gain of their average over
the better of the two, on the mean of both texts. Then the average and both ends are trained further, on both texts, by
AdamW or Muon for the same number of steps: which of the three has the lowest loss?
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

from ..checkpoint.loading import load
from ..eval.barrier import profile
from ..eval.progress import Progress
from ..merge.path import WeightPath
from ..merge.plans import OptimizerName
from ..merge.search import grid
from .demo import CHECKPOINTS
from .options import Effort, StudyOptions
from .pairs import OPTIMIZERS, loss_meter, model, train
from .parts import compute
from .pretrain import TrainingRecipe, embedded_tokenizer, pretrain, small_config

BASE = "adamw-1"
BOTH = ("docs=stdlib:docs:heldout", "code=stdlib:code:heldout")
Domain = Literal["docs", "code"]
TRAINED_ON: tuple[OptimizerName, ...] = ("adamw", "muon")
DOMAINS: tuple[Domain, ...] = ("docs", "code")
RECIPES: dict[OptimizerName, TrainingRecipe] = {
    "adamw": TrainingRecipe("", "adamw", 0, 0, base=BASE, batch=16, adamw_lr=1e-3, weight_decay=0.1),
    "muon": TrainingRecipe("", "muon", 0, 0, base=BASE, batch=16, muon_lr=5e-3, adamw_lr=1e-3, weight_decay=0.1),
    "lion": TrainingRecipe("", "lion", 0, 0, base=BASE, batch=16, adamw_lr=2e-4, weight_decay=0.1),
}


def practice_study(directory: Path, options: StudyOptions, progress: Progress) -> dict[str, Any]:
    """Fine-tune, merge and train further, JSON-ready; finished parts in `directory` are used."""
    effort, workers, numbers = options.size.effort, options.workers, range(1, options.size.fine_tunes + 1)
    place = directory / "fine-tunes"
    recipes = [_recipe(*model, effort) for model in product(OPTIMIZERS, DOMAINS, numbers)]
    models = {recipe.name: partial(train, place, recipe, small_config()) for recipe in recipes}
    compute(place, models, "fine-tuning", workers, progress)
    couples = [
        (f"{one}-docs-{number}", f"{other}-code-{number}")
        for one, other, number in product(OPTIMIZERS, OPTIMIZERS, numbers)
    ]
    merges = {f"{a}, {b}": partial(measure_merge, directory, a, b, effort) for a, b in couples}
    barriers = compute(directory / "merges", merges, "merging", workers, progress)
    further = {
        f"{optimizer}-{number}": partial(train_further, directory, optimizer, number, effort)
        for optimizer, number in product(TRAINED_ON, numbers)
    }
    return {"merges": barriers, "further": compute(directory / "further", further, "training on", workers, progress)}


def _recipe(optimizer: OptimizerName, domain: Domain, number: int, effort: Effort) -> TrainingRecipe:
    """How a model is fine-tuned."""
    name, seed = f"{optimizer}-{domain}-{number}", 2000 + 10 * number + DOMAINS.index(domain)
    text = effort.docs if domain == "docs" else effort.code
    return replace(RECIPES[optimizer], name=name, seed=seed, steps=effort.fine_tuning, data=(text,))


def measure_merge(directory: Path, a: str, b: str, effort: Effort) -> Mapping[str, Any]:
    """The straight line between two fine-tunes: its barrier, and the gain of their average, in nats per token."""
    first, second = (model(directory / "fine-tunes", name) for name in (a, b))
    meter = loss_meter(first.config, effort, BOTH)
    measured = profile(WeightPath("linear", first.state, second.state), meter, grid())
    better = min((measured.start, measured.end), key=lambda end: end.mean)
    gain = better - measured.at(0.5)
    ends = {"docs": measured.start, "code": measured.end, "average": measured.at(0.5)}
    models = {"base": meter(load(CHECKPOINTS / BASE).state), **ends}
    return {
        "ends": [measured.start.mean, measured.end.mean],
        "average": measured.at(0.5).mean,
        "by_text": {
            label: {name: losses.label_mean(label) for name, losses in models.items()} for label in meter.blocks
        },
        "barrier": measured.barrier,
        "lowest_excess": min(measured.excess(t).mean for t, _ in measured.points),
        "gain": [gain.mean, gain.stderr],
    }


def train_further(directory: Path, optimizer: OptimizerName, number: int, effort: Effort) -> Mapping[str, Any]:
    """Losses after more training on both texts, from either fine-tune and from their average, and before."""
    first, second = (model(directory / "fine-tunes", f"{optimizer}-{domain}-{number}") for domain in DOMAINS)
    starts = {
        "docs": dict(first.state),
        "code": dict(second.state),
        "average": dict(WeightPath("linear", first.state, second.state)(0.5)),
    }
    plan = replace(
        RECIPES[optimizer], name="further", seed=3000 + number, steps=effort.further, data=(effort.docs, effort.code)
    )
    meter = loss_meter(first.config, effort, BOTH)
    losses = {}
    for name, state in starts.items():
        after = meter(pretrain(plan, small_config(), embedded_tokenizer(), state))
        losses[name] = {"before": meter(state).mean, "after": after.mean, "stderr": after.stderr}
    return losses
