"""The study of width: barriers between small GPT-2s of one optimizer as they grow wider, at equal loss.

Models of two layers, with heads of 32 channels, are trained on docstrings for as many steps as it takes each width to
reach the same loss. Every pair of one optimizer is measured as in `isthmus.lab.table`: without alignment, by every
closed form, learned, and with one bend; the learning and the bend have as much text at every width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import exp, log
from pathlib import Path
from statistics import mean
from typing import Any

from ..eval.progress import Progress
from ..merge.plans import OptimizerName
from .options import Effort, StudyOptions, WidthPlan
from .pairs import kind_of, optimizer_of, pairs, train, training_recipe
from .parts import compute, spread
from .pretrain import TrainingRecipe
from .table import WAYS, measure_pair

TRAINED_BY: tuple[OptimizerName, ...] = ("adamw", "muon")
HEAD, USUAL = 32, 128  # channels of a head; the width for which learning rates are given
BEYOND = {"GPT-2 small": 768, "SmolLM2-1.7B": 2048, "Llama 3 8B": 4096}


def width_study(directory: Path, options: StudyOptions, progress: Progress) -> dict[str, Any]:
    """Train the models of every width and measure their pairs, JSON-ready; finished parts in `directory` are used.

    ``pairs`` are the records of `measure_pair` by ``WIDTH, A, B``, ``table`` the barriers of every optimizer, way and
    width, ``fits`` how they fall with the width.
    """
    plan, workers = options.size.widths, options.workers
    couples = [pair for name in TRAINED_BY for pair in pairs((name, name), plan.seeds)]
    models = list(dict.fromkeys(name for couple in couples for name in couple))
    measured: dict[str, Any] = {}
    for width in plan.widths:
        effort, place = effort_of(width, options.size.effort, plan), directory / f"width-{width}"
        recipes = [recipe(name, width, effort, plan) for name in models]
        training = {one.name: partial(train, place / "models", one, effort.config()) for one in recipes}
        compute(place / "models", training, f"training models of width {width}", workers, progress)
        parts = {f"{a}, {b}": partial(measure_pair, place, a, b, effort) for a, b in couples}
        found = compute(place / "barriers", parts, f"measuring pairs of width {width}", workers, progress)
        measured |= {f"{width}, {name}": record for name, record in found.items()}
    return {"pairs": measured, "table": table(measured), "fits": fits(measured)}


def effort_of(width: int, effort: Effort, plan: WidthPlan) -> Effort:
    """What models of a width are, and how their pairs are measured."""
    return replace(effort, layers=plan.layers, width=width, heads=max(1, width // HEAD))


def recipe(name: str, width: int, effort: Effort, plan: WidthPlan) -> TrainingRecipe:
    """How the model `OPTIMIZER-NUMBER` of a width is trained.

    AdamW's learning rate falls as 1/√width; Muon's update has the same size at every width.
    """
    usual = training_recipe(name, effort)
    steps = plan.steps[optimizer_of(name)][plan.widths.index(width)]
    return replace(usual, steps=steps, adamw_lr=usual.adamw_lr * (USUAL / width) ** 0.5)


def table(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Mean and standard deviation over pairs of the held-out loss of the ends, and of every way's barrier, in nats."""
    rows = []
    for optimizer, width, records in _grouped(measured):
        ends = [loss for record in records for loss in (record["losses"]["naive"][0], record["losses"]["naive"][-1])]
        row: dict[str, Any] = {"optimizer": optimizer, "width": width, "loss": mean(ends), "loss_std": spread(ends)}
        barriers = {way: [record["barriers"][way] for record in records] for way in WAYS}
        rows.append(row | {way: {"mean": mean(each), "std": spread(each)} for way, each in barriers.items()})
    return rows


def fits(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Power laws, barrier = c · width^exponent, by least squares of logarithms over all pairs of an optimizer and way.

    Each has the exponent with its standard error, and the barriers that it would give the widths `BEYOND`, with an
    interval that holds 95 % of single pairs if the law goes on. Where some pairs have no barrier, which has no
    logarithm (``without`` counts them), there is no law.
    """
    found = []
    for optimizer in TRAINED_BY:
        for way in WAYS:
            points = [
                (log(width), record["barriers"][way])
                for one, width, records in _grouped(measured)
                for record in records
                if one == optimizer
            ]
            without = sum(barrier <= 0 for _, barrier in points)
            law = _power_law([] if without else [(x, log(barrier)) for x, barrier in points])
            found.append({"optimizer": optimizer, "way": way, "without": without, **law})
    return found


def _power_law(points: list[tuple[float, float]]) -> dict[str, Any]:
    """Slope, its standard error and predictions, of points (log width, log barrier)."""
    from scipy.stats import linregress, t

    degrees = len(points) - 2
    if degrees < 1 or len({x for x, _ in points}) < 2:
        return {"exponent": None, "stderr": None, "beyond": {}}
    xs, ys = zip(*points, strict=True)
    line, centre = linregress(xs, ys), mean(xs)
    off = [y - line.intercept - line.slope * x for x, y in points]
    variance, spread_of_x = sum(one**2 for one in off) / degrees, sum((x - centre) ** 2 for x in xs)
    beyond = {}
    for name, width in BEYOND.items():
        middle = line.intercept + line.slope * log(width)
        error = (variance * (1 + 1 / len(xs) + (log(width) - centre) ** 2 / spread_of_x)) ** 0.5
        reach = float(t.ppf(0.975, degrees)) * error
        beyond[name] = {"barrier": exp(middle), "from": exp(middle - reach), "to": exp(middle + reach)}
    return {"exponent": float(line.slope), "stderr": float(line.stderr), "beyond": beyond}


def _grouped(measured: Mapping[str, Any]) -> list[tuple[str, int, list[Mapping[str, Any]]]]:
    """(optimizer, width, records of its pairs), in the order of the study."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for name, record in measured.items():
        width, pair = name.split(", ", 1)
        groups.setdefault((kind_of(pair).split("-")[0], int(width)), []).append(record)
    return [(*group, records) for group, records in sorted(groups.items())]
