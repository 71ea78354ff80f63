"""The models of the studies of pretraining, five per optimizer, and the paths between two of them.

Small GPT-2s, four layers of width 128, trained on the docstrings of the standard library without the modules
that are held out; only seeds and optimizers differ. Every pair gets a path: the closed-form alignment by weights and
activations, and one bend, trained on the text that the models were trained on. Everything is kept in one directory, so
that the studies share it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import combinations_with_replacement
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..align.pipeline import Aligned, align_states
from ..checkpoint.loading import Checkpoint, load
from ..checkpoint.saving import atomic_directory
from ..eval.progress import Progress
from ..eval.text import Blocks, labelled_blocks
from ..eval.text_hashes import TextHashes
from ..merge.path import WeightPath, read_path, write_path
from ..merge.plans import CurvePlan, LearnPlan, OptimizerName, PathTraining
from ..merge.reading import ACTIVATION_TOKENS
from ..merge.training.fitting import train_curve, training_record
from .demo import CHECKPOINTS
from .parts import compute
from .pretrain import CODE, DOCS, TrainingRecipe, make_checkpoint, small_config

if TYPE_CHECKING:
    from transformers import GPT2Config, PreTrainedTokenizerBase

OPTIMIZERS: tuple[OptimizerName, ...] = ("adamw", "muon", "lion")
SEEDS = 5
HELD_OUT = "docs=stdlib:docs:heldout"
MEASURED = 8192  # tokens, to select and to report on
RECIPES: dict[OptimizerName, TrainingRecipe] = {
    "adamw": TrainingRecipe("", "adamw", 0, 0, adamw_lr=2e-3, weight_decay=0.5),
    "muon": TrainingRecipe("", "muon", 0, 0, muon_lr=1e-2, adamw_lr=4e-3, weight_decay=0.3),
    "lion": TrainingRecipe("", "lion", 0, 0, adamw_lr=5e-4, weight_decay=1.5),
}


@dataclass(frozen=True)
class Effort:
    """How much is computed: steps of everything that is trained, blocks in a step of a bend, tokens that are measured.

    `plane` is the resolution of planes, `looked_at` the tokens whose activations align models.
    """

    pretraining: int = 700
    bend: int = 120
    batch: int = 16
    learning: int = 200
    tokens: int = MEASURED
    fine_tuning: int = 150
    further: int = 60
    plane: int = 11
    looked_at: int = ACTIVATION_TOKENS
    layers: int = 4
    width: int = 128
    docs: str = DOCS
    code: str = CODE

    def config(self) -> GPT2Config:
        """The models that are pretrained."""
        return small_config(layers=self.layers, width=self.width)


QUICK = Effort(
    pretraining=20,
    bend=4,
    batch=4,
    learning=20,
    tokens=512,
    fine_tuning=5,
    further=3,
    plane=5,
    looked_at=2048,
    layers=2,
    width=32,
    docs="stdlib:docs:heldout",
    code="stdlib:code:heldout",
)


def training_recipe(optimizer: OptimizerName, number: int, effort: Effort) -> TrainingRecipe:
    """How a model is trained."""
    seed = 1000 + 10 * number + OPTIMIZERS.index(optimizer)
    return replace(
        RECIPES[optimizer],
        name=f"{optimizer}-{number}",
        seed=seed,
        steps=effort.pretraining,
        batch=effort.batch,
        data=(effort.docs,),
    )


def optimizer_of(name: str) -> str:
    """The optimizer that trained a model, from its name."""
    return name.split("-")[0]


def kinds() -> list[tuple[OptimizerName, OptimizerName]]:
    """The kinds of pairs: two models of one optimizer, or one of each of two."""
    return list(combinations_with_replacement(OPTIMIZERS, 2))


def pairs(kind: tuple[OptimizerName, OptimizerName], seeds: int = SEEDS) -> list[tuple[str, str]]:
    """The pairs of one kind: as many as seeds, or one for two seeds; no two of one kind share both models."""
    one, other = kind
    shift = int(one == other)
    couples = [(f"{one}-{number + 1}", f"{other}-{(number + shift) % seeds + 1}") for number in range(seeds)]
    return couples[:1] if seeds == 2 else couples


def train_models(
    directory: Path, names: Sequence[str], effort: Effort, *, workers: int = 1, progress: Progress | None = None
) -> dict[str, float]:
    """Train the models named, `OPTIMIZER-NUMBER`, unless they exist; returns the last training loss of each."""
    parts = {}
    for name in dict.fromkeys(names):
        optimizer, number = name.split("-")
        optimizer_name = next(one for one in OPTIMIZERS if one == optimizer)
        parts[name] = partial(
            _train, directory / "models", training_recipe(optimizer_name, int(number), effort), effort
        )
    records = compute(directory / "models", parts, stage="training models", workers=workers, progress=progress)
    return {name: record["loss"] for name, record in records.items()}


def _train(directory: Path, plan: TrainingRecipe, effort: Effort) -> Mapping[str, Any]:
    # A run that was interrupted before it recorded the loss has left it.
    shutil.rmtree(directory / plan.name, ignore_errors=True)
    return {"loss": make_checkpoint(plan, effort.config(), tokenizer(), None, directory, Progress())}


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer of the embedded checkpoints, which all models share."""
    return load(CHECKPOINTS / "docs").tokenizer()


def model(directory: Path, name: str) -> Checkpoint:
    """One of the models, its state in memory."""
    checkpoint = load(directory / "models" / name)
    return replace(checkpoint, state=dict(checkpoint.state))


@cache
def text(effort: Effort, specs: tuple[str, ...] = (HELD_OUT,), fit: str = "") -> tuple[Blocks, ...]:
    """Text to select and to report on, of every corpus of `specs`; or, with `fit`, the text of one corpus to train on.

    What models and bends are trained on are other modules of the library than what is held out.
    """
    context = effort.config().n_positions
    trained_on = max(effort.bend * effort.batch, effort.learning * LearnPlan.batch) * context
    measured = 0 if fit else effort.tokens
    return labelled_blocks(
        (fit,) if fit else specs,
        tokenizer(),
        context=context,
        vocabulary=len(tokenizer()),
        fit_tokens=max(trained_on, effort.looked_at) if fit else 0,
        select_tokens=measured,
        report_tokens=measured,
    )


def to_fit(effort: Effort) -> dict[str, Tensor]:
    """The blocks that alignments and bends are trained on."""
    return {part.label: part.fit for part in text(effort, fit=effort.docs)}


def aligned(first: Checkpoint, second: Checkpoint, effort: Effort) -> Aligned:
    """The best closed form: by weights and activations."""
    ids = torch.cat(list(to_fit(effort).values()))[: effort.looked_at // effort.config().n_positions]
    return align_states(first.state, second.state, first.config, "combined", ids=ids)


def trained_path(
    directory: Path,
    a: str,
    b: str,
    effort: Effort,
    by: OptimizerName | None = None,
    start: Aligned | None = None,
) -> WeightPath:
    """The path between two models with one bend, trained `by` an optimizer and saved, or read back.

    By default that is the optimizer that trained both, else AdamW. `start` is their alignment, if there is one already.
    """
    optimizers = [optimizer_of(name) for name in (a, b)]
    plan = CurvePlan(training=PathTraining(steps=effort.bend, batch=effort.batch)).for_endpoints(optimizers)
    plan = replace(plan, optimizer=by or plan.optimizer)
    place = directory / "paths" / f"{a}, {b}, {plan.optimizer}"
    first, second = model(directory, a), model(directory, b)
    if not place.exists():
        start = start or aligned(first, second, effort)
        fit, select = to_fit(effort), {part.label: part.select for part in text(effort)}
        line = WeightPath("linear", start.a, start.b)
        trained, plan = train_curve(line, start.config, fit, select, plan, device="cpu", progress=Progress())
        with atomic_directory(place) as folder:
            seen = TextHashes.of(fit.values())
            write_path(folder, trained.path, start.alignment, (first, second), training_record(plan, trained), seen)
    return read_path(place, first, second).path
