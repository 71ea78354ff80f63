"""The models of the studies of pretraining, five per optimizer, and the paths between two of them.

Small GPT-2s, four layers of width 128, trained on the docstrings of the standard library without the modules
that are held out; only seeds and optimizers differ. Every pair gets a path: the closed-form alignment by weights and
activations, and one bend, trained on the text that the models were trained on. Everything is kept in one directory, so
that the studies share it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from itertools import combinations_with_replacement
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..align.pipeline import Aligned, align_states
from ..checkpoint.loading import Checkpoint, load
from ..checkpoint.saving import atomic_directory
from ..eval.loss import LossMeter
from ..eval.progress import Progress
from ..eval.samples import Writer
from ..eval.text import Blocks, Text
from ..eval.text_hashes import TextHashes
from ..merge.path import WeightPath
from ..merge.plans import CurvePlan, LearnPlan, OptimizerName, PathTraining
from ..merge.saved_path import read_path, write_path
from ..merge.training.fitting import Fitter, training_record
from ..merge.training.text import with_written
from .options import SEEDS, Effort, StudyOptions
from .parts import compute
from .pretrain import TrainingRecipe, embedded_tokenizer, make_checkpoint

if TYPE_CHECKING:
    from transformers import GPT2Config, PretrainedConfig

OPTIMIZERS: tuple[OptimizerName, ...] = ("adamw", "muon", "lion")
HELD_OUT = "docs=stdlib:docs:heldout"
RECIPES: dict[str, TrainingRecipe] = {
    "adamw": TrainingRecipe("", "adamw", 0, 0, adamw_lr=2e-3, weight_decay=0.5),
    "muon": TrainingRecipe("", "muon", 0, 0, muon_lr=1e-2, adamw_lr=4e-3, weight_decay=0.3),
    "lion": TrainingRecipe("", "lion", 0, 0, adamw_lr=5e-4, weight_decay=1.5),
}


def training_recipe(name: str, effort: Effort) -> TrainingRecipe:
    """How the model `OPTIMIZER-NUMBER` is trained."""
    optimizer, number = name.split("-")
    seed = 1000 + 10 * int(number) + list(RECIPES).index(optimizer)
    recipe = replace(RECIPES[optimizer], name=name, seed=seed, steps=effort.pretraining)
    return replace(recipe, batch=effort.batch, data=(effort.docs,))


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


def all_pairs(seeds: int) -> list[tuple[str, str]]:
    """The pairs of all kinds."""
    return [pair for kind in kinds() for pair in pairs(kind, seeds)]


def kind_of(pair: str) -> str:
    """The kind of a pair of models, `A, B`: the optimizers that trained them, as in ``adamw-muon``."""
    return "-".join(optimizer_of(end) for end in pair.split(", ")[:2])


def model_names(seeds: int) -> list[str]:
    """The models of all pairs, `OPTIMIZER-NUMBER`."""
    return [f"{optimizer}-{number}" for optimizer in OPTIMIZERS for number in range(1, seeds + 1)]


def train_models(directory: Path, names: Iterable[str], options: StudyOptions, progress: Progress) -> dict[str, float]:
    """Train the models named, `OPTIMIZER-NUMBER`, unless they exist; returns the last training loss of each."""
    effort, place = options.size.effort, directory / "models"
    parts = {name: partial(train, place, training_recipe(name, effort), effort.config()) for name in names}
    records = compute(place, parts, "training models", options.workers, progress)
    return {name: record["loss"] for name, record in records.items()}


def train(directory: Path, recipe: TrainingRecipe, config: GPT2Config) -> Mapping[str, Any]:
    """Train one model into a directory; the record is its last training loss."""
    # A run that was interrupted before it recorded the loss has left it.
    shutil.rmtree(directory / recipe.name, ignore_errors=True)
    return {"loss": make_checkpoint(recipe, config, directory, Progress())}


def model(directory: Path, name: str) -> Checkpoint:
    """A model in a directory, its state in memory."""
    checkpoint = load(directory / name)
    return replace(checkpoint, state=dict(checkpoint.state))


@cache
def text(effort: Effort, specs: tuple[str, ...] = (HELD_OUT,), fit: str = "") -> tuple[Blocks, ...]:
    """Text to select and to report on, of every corpus of `specs`; or, with `fit`, the text of one corpus to train on.

    What models and bends are trained on are other modules of the library than what is held out.
    """
    context, tokenizer = effort.config().n_positions, embedded_tokenizer()
    trained_on = max(effort.bend * effort.batch, effort.learning * LearnPlan.batch) * context
    measured = 0 if fit else effort.tokens
    return Text((fit,) if fit else specs, tokenizer, context=context, vocabulary=len(tokenizer)).blocks(
        fit_tokens=max(trained_on, effort.looked_at) if fit else 0, select_tokens=measured, report_tokens=measured
    )


def loss_meter(config: PretrainedConfig, effort: Effort, specs: tuple[str, ...] = (HELD_OUT,)) -> LossMeter:
    """What measures losses on the text to report on."""
    return LossMeter(config, {part.label: part.report for part in text(effort, specs)})


def to_fit(effort: Effort) -> dict[str, Tensor]:
    """The blocks that alignments and bends are trained on."""
    return {part.label: part.fit for part in text(effort, fit=effort.docs)}


def selected(effort: Effort) -> dict[str, Tensor]:
    """The blocks that they are chosen by."""
    return {part.label: part.select for part in text(effort)}


def aligned(first: Checkpoint, second: Checkpoint, effort: Effort) -> Aligned:
    """The best closed form: by weights and activations."""
    ids = torch.cat(list(to_fit(effort).values()))[: effort.looked_at // effort.config().n_positions]
    return align_states(first.state, second.state, first.config, "combined", ids=ids)


def fitter_of(first: Checkpoint, second: Checkpoint, effort: Effort, training: PathTraining) -> Fitter:
    """What trains a path between two models, on docstrings and on text that they have written."""
    context = effort.config().n_positions
    return Fitter(*with_written(writer_of(first, second), training, context, to_fit(effort), selected(effort)))


def writer_of(first: Checkpoint, second: Checkpoint) -> Writer:
    """What two models write."""
    return Writer([first.state, second.state], first.config, 0, "cpu", Progress())


def trained_path(
    directory: Path, a: str, b: str, effort: Effort, by: OptimizerName | None = None, start: Aligned | None = None
) -> tuple[WeightPath, PretrainedConfig]:
    """The path between two models with one bend, trained `by` an optimizer and saved, or read back; its configuration.

    By default that is the optimizer that trained both, else AdamW. `start` is their alignment, if there is one already.
    """
    optimizers = [optimizer_of(name) for name in (a, b)]
    plan = CurvePlan(training=PathTraining(steps=effort.bend, batch=effort.batch)).for_endpoints(optimizers)
    plan = replace(plan, optimizer=by or plan.optimizer)
    place = directory / "paths" / f"{a}, {b}, {plan.optimizer}"
    first, second = (model(directory / "models", name) for name in (a, b))
    if not place.exists():
        start = start or aligned(first, second, effort)
        fitter = fitter_of(first, second, effort, plan.training)
        trained, plan = fitter.curve(WeightPath("linear", start.a, start.b), start.config, plan)
        seen = TextHashes.of(to_fit(effort).values())
        record = training_record(plan, trained)
        with atomic_directory(place) as folder:
            write_path(folder, trained.path, start.alignment, (first, second), record, seen)
    saved = read_path(place, first, second)
    return saved.path, saved.alignment.config(first.config)
