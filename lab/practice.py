"""The study for practice: does the optimizer of fine-tuning change how models merge; is a merge a good start?

One base, the embedded adamw-1, is fine-tuned on docstrings and on source code, by AdamW, Muon and Lion, from several
seeds. Every fine-tune on docstrings is merged with every one on code: the barrier, and the gain of their average over
the better of the two, on the mean of both texts. Then the average and both ends are trained further, on both texts, by
AdamW or Muon for the same number of steps: which of the three has the lowest loss?
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

from ..checkpoint.loading import Checkpoint, load
from ..eval.barrier import Profile, profile
from ..eval.loss import Losses, LossMeter
from ..eval.progress import Progress
from ..merge.path import WeightPath
from ..merge.plans import OptimizerName
from ..merge.search import grid
from .demo import CHECKPOINTS
from .pairs import OPTIMIZERS, SEEDS, Effort, text, tokenizer
from .parts import compute
from .pretrain import TrainingRecipe, make_checkpoint, pretrain, small_config

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


def practice_study(
    directory: Path, effort: Effort, *, seeds: int = SEEDS, workers: int = 1, progress: Progress | None = None
) -> dict[str, Any]:
    """Fine-tune, merge and train further, JSON-ready; finished parts in `directory` are used."""
    models = {
        f"{optimizer}-{domain}-{number}": partial(_fine_tune, directory, optimizer, domain, number, effort)
        for optimizer, domain, number in product(OPTIMIZERS, DOMAINS, range(1, seeds + 1))
    }
    compute(directory / "fine-tunes", models, stage="fine-tuning", workers=workers, progress=progress)
    couples = {
        f"{one}-docs-{number}, {other}-code-{number}": (f"{one}-docs-{number}", f"{other}-code-{number}")
        for one, other, number in product(OPTIMIZERS, OPTIMIZERS, range(1, seeds + 1))
    }
    merges = {name: partial(measure_merge, directory, *couple, effort) for name, couple in couples.items()}
    barriers = compute(directory / "merges", merges, stage="merging", workers=workers, progress=progress)
    further = {
        f"{optimizer}-{number}": partial(train_further, directory, optimizer, number, effort)
        for optimizer, number in product(TRAINED_ON, range(1, seeds + 1))
    }
    starts = compute(directory / "further", further, stage="training on", workers=workers, progress=progress)
    return {"merges": barriers, "further": starts}


def _fine_tune(
    directory: Path, optimizer: OptimizerName, domain: Domain, number: int, effort: Effort
) -> Mapping[str, Any]:
    base = load(CHECKPOINTS / BASE)
    shutil.rmtree(directory / "fine-tunes" / f"{optimizer}-{domain}-{number}", ignore_errors=True)
    plan = replace(
        RECIPES[optimizer],
        name=f"{optimizer}-{domain}-{number}",
        seed=2000 + 10 * number + DOMAINS.index(domain),
        steps=effort.fine_tuning,
        data=(effort.docs if domain == "docs" else effort.code,),
    )
    place = directory / "fine-tunes"
    loss = make_checkpoint(plan, small_config(), tokenizer(), dict(base.state), place, Progress())
    return {"loss": loss}


def _load(directory: Path, name: str) -> Checkpoint:
    checkpoint = load(directory / "fine-tunes" / name)
    return replace(checkpoint, state=dict(checkpoint.state))


def measure_merge(directory: Path, a: str, b: str, effort: Effort) -> Mapping[str, Any]:
    """The straight line between two fine-tunes: its barrier, and the gain of their average, in nats per token."""
    first, second = _load(directory, a), _load(directory, b)
    meter = LossMeter(first.config, {part.label: part.report for part in text(effort, BOTH)})
    measured = profile(WeightPath("linear", first.state, second.state), meter, grid())
    better = min((measured.start, measured.end), key=lambda end: end.mean)
    gain = better - measured.at(0.5)
    base = meter(load(CHECKPOINTS / BASE).state)
    return {
        "ends": [measured.start.mean, measured.end.mean],
        "average": measured.at(0.5).mean,
        "by_text": {
            label: {name: losses.label_mean(label) for name, losses in _named(base, measured).items()}
            for label in base.per_block
        },
        "barrier": measured.barrier,
        "lowest_excess": min(measured.excess(t).mean for t, _ in measured.points),
        "gain": [gain.mean, gain.stderr],
    }


def _named(base: Losses, measured: Profile) -> dict[str, Losses]:
    return {"base": base, "docs": measured.start, "code": measured.end, "average": measured.at(0.5)}


def train_further(directory: Path, optimizer: OptimizerName, number: int, effort: Effort) -> Mapping[str, Any]:
    """Losses after more training on both texts, from either fine-tune and from their average, and before."""
    first, second = (_load(directory, f"{optimizer}-{domain}-{number}") for domain in DOMAINS)
    starts = {
        "docs": dict(first.state),
        "code": dict(second.state),
        "average": dict(WeightPath("linear", first.state, second.state)(0.5)),
    }
    plan = replace(
        RECIPES[optimizer], name="further", seed=3000 + number, steps=effort.further, data=(effort.docs, effort.code)
    )
    meter = LossMeter(first.config, {part.label: part.report for part in text(effort, BOTH)})
    losses = {}
    for name, state in starts.items():
        after = meter(pretrain(plan, small_config(), tokenizer(), state))
        losses[name] = {"before": meter(state).mean, "after": after.mean, "stderr": after.stderr}
    return losses
