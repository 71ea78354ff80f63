"""The study of paths on other text than what they were fitted to, and of ensembles with a point between two models.

The models were trained on docstrings. Their paths are measured on other docstrings, on source code, and on any text
that a user names: the loss of both ends, of the path, of its best point (chosen on docstrings held out for that), of
the ensemble of both ends, and of the ensemble of both and that point.

What is fitted, a learned alignment or a bend, is held against the closed form that it begins with, on the same texts
and on text that the two models write; fitted to docstrings and that, or to that alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..align.alignment import Alignment
from ..align.universe import Universe
from ..eval.barrier import Profile, profile
from ..eval.corpora import WRITTEN
from ..eval.loss import Losses, LossMeter, ensemble_losses, per_block
from ..eval.progress import Progress
from ..merge.path import WeightPath
from ..merge.plans import CurvePlan, LearnPlan, PathTraining
from ..merge.search import grid, inside
from ..merge.training.fitting import Fitter
from ..merge.training.text import with_written
from .options import Effort, StudyOptions
from .pairs import (
    HELD_OUT,
    aligned,
    all_pairs,
    kinds,
    model,
    model_names,
    optimizer_of,
    pairs,
    selected,
    text,
    to_fit,
    train_models,
    trained_path,
    writer_of,
)
from .parts import compute

OTHER_TEXTS = ("code=stdlib:code:heldout",)
INTERIOR = 0.1
FITTED = 3  # pairs of every kind that are fitted with and without text
UNREAD = ", no text"


def generalization_study(directory: Path, options: StudyOptions, progress: Progress) -> dict[str, Any]:
    """All pairs on all texts, JSON-ready; models and paths that are in `directory` are used.

    Raises BadInput for a text that cannot be read, before any model is trained.
    """
    texts = (HELD_OUT, *OTHER_TEXTS, *options.other_texts)
    text(options.size.effort, texts)
    train_models(directory, model_names(options.size.seeds), options, progress)
    parts = {
        f"{a}, {b}": partial(losses_on_texts, directory, a, b, texts, options.size.effort)
        for a, b in all_pairs(options.size.seeds)
    }
    losses = compute(directory / "elsewhere", parts, "measuring on other text", options.workers, progress)
    fits = {
        f"{a}, {b}": partial(barriers_on_texts, directory, a, b, texts, options.size.effort)
        for a, b in fitted_pairs(options.size.seeds)
    }
    barriers = compute(directory / "fits", fits, "fitting with and without text", options.workers, progress)
    return {"texts": texts, "pairs": losses, "fits": barriers}


def fitted_pairs(seeds: int) -> list[tuple[str, str]]:
    """The first pairs of AdamW, of Muon and of both."""
    return [pair for kind in kinds() if "lion" not in kind for pair in pairs(kind, seeds)[:FITTED]]


def barriers_on_texts(directory: Path, a: str, b: str, texts: tuple[str, ...], effort: Effort) -> Mapping[str, Any]:
    """One pair: way → text → barrier and excess losses in nats per token, on the report text.

    What is fitted begins with the closed form; where its way ends in `UNREAD`, to nothing but text that models write.
    """
    first, second = (model(directory / "models", name) for name in (a, b))
    start = aligned(first, second, effort)
    writer, context = writer_of(first, second), effort.config().n_positions
    learning = LearnPlan(steps=effort.learning)
    curve = CurvePlan(training=PathTraining(steps=effort.bend, batch=effort.batch))
    curve = curve.for_endpoints([optimizer_of(name) for name in (a, b)])
    learned_config = Alignment("learned", {}, 0.0).config(start.config)
    line, pair = WeightPath("linear", start.a, start.b), Universe.of_pair(start)
    ways = {"closed form": (line, start.config)}
    for ending, docs in (("", (to_fit(effort), selected(effort))), (UNREAD, ({}, {}))):
        fitter = Fitter(*with_written(writer, learning.training, context, *docs))
        learned = fitter.learn(pair, (first.state, second.state), learning)
        bent, _ = Fitter(*with_written(writer, curve.training, context, *docs)).curve(line, start.config, curve)
        ways[f"learned{ending}"], ways[f"one bend{ending}"] = (learned.path, learned_config), (bent.path, start.config)
    blocks = {part.label: part.report for part in text(effort, texts)}
    blocks[WRITTEN] = writer.blocks("report", -(-effort.tokens // context), context)
    profiles = {way: profile(path, LossMeter(config, blocks), grid()) for way, (path, config) in ways.items()}
    return {way: {label: _along(one, label) for label in blocks} for way, one in profiles.items()}


def _along(measured: Profile, label: str) -> dict[str, Any]:
    excesses = [measured.excess(t).label_mean(label) for t, _ in measured.points]
    return {"barrier": measured.label_barrier(label), "excess": excesses}


def losses_on_texts(directory: Path, a: str, b: str, texts: tuple[str, ...], effort: Effort) -> Mapping[str, Any]:
    """One pair: text → losses in nats per token, differences with their standard errors over blocks."""
    path, config = trained_path(directory, a, b, effort)
    blocks = text(effort, texts)
    ts = grid()
    searched = profile(path, LossMeter(config, {HELD_OUT: blocks[0].select}), ts)
    best = min((t for t in ts if inside(t, INTERIOR)), key=lambda t: searched.at(t).mean)
    record: dict[str, Any] = {"t": best}
    for part in blocks:
        meter = LossMeter(config, {part.label: part.report})
        tokens = {t: meter.token_losses(path(t)) for t in ts}
        losses = {t: per_block(one) for t, one in tokens.items()}
        ends = [losses[0.0], losses[1.0]]
        excesses = {t: losses[t] - ends[0].mixed(ends[1], t) for t in ts}
        two, three = (ensemble_losses([tokens[t] for t in members]) for members in ((0.0, 1.0), (0.0, 1.0, best)))
        record[part.label] = {
            "ends": [end.mean for end in ends],
            "excess": [excess.mean for excess in excesses.values()],
            "point": losses[best].mean,
            "two": two.mean,
            "three": three.mean,
            "barrier": max(excess.mean for t, excess in excesses.items()),
            "highest_inside": max(excess.mean for t, excess in excesses.items() if 0 < t < 1),
            "lowest": min(excess.mean for excess in excesses.values()),
            "point_over_better_end": _gain(min(ends, key=lambda end: end.mean), losses[best]),
            "third_over_two": _gain(two, three),
        }
    return record


def _gain(before: Losses, after: Losses) -> tuple[float, float]:
    """By how much the loss is lower, and the standard error of that over blocks."""
    difference = before - after
    return difference.mean, difference.stderr
