"""The study of path points out of distribution, and of ensembles of two models and a point between them.

The models were trained on docstrings. Their paths are measured on other docstrings, on source code, and on any text
that a user names: the loss of both ends, of the path, of its best point (chosen on docstrings held out for that), of
the ensemble of both ends, and of the ensemble of both and that point.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..eval.barrier import profile
from ..eval.loss import Losses, LossMeter, ensemble_losses, per_block
from ..eval.progress import Progress
from ..merge.search import grid, inside
from .options import Effort, StudyOptions
from .pairs import HELD_OUT, all_pairs, model_names, text, train_models, trained_path
from .parts import compute

OTHER_TEXTS = ("code=stdlib:code:heldout",)
INTERIOR = 0.1


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
    return {"texts": texts, "pairs": losses}


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
