"""The study of barriers: pairs of one optimizer and of two, by alignment, on straight lines and with one bend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ..align.methods import Method
from ..align.pipeline import Aligned, align_states
from ..align.universe import Universe
from ..eval.barrier import Profile, profile
from ..eval.loss import LossMeter
from ..eval.progress import Progress
from ..merge.path import WeightPath
from ..merge.plans import LearnPlan
from ..merge.search import grid
from ..merge.training.fitting import learn
from .pairs import (
    OPTIMIZERS,
    SEEDS,
    Effort,
    aligned,
    kinds,
    model,
    optimizer_of,
    pairs,
    text,
    to_fit,
    train_models,
    trained_path,
)
from .parts import compute

WAYS = ("naive", "permutation", "orthogonal", "combined", "learned", "one bend")


@dataclass(frozen=True)
class BarrierRow:
    """One kind of pairs, one way: the mean barrier in nats, its standard deviation over pairs, and each of them."""

    kind: str
    way: str
    mean: float
    std: float
    barriers: tuple[float, ...]


def table_study(
    directory: Path, effort: Effort, *, seeds: int = SEEDS, workers: int = 1, progress: Progress | None = None
) -> dict[str, Any]:
    """Train `seeds` models per optimizer into `directory`, and measure every pair; finished parts are read back.

    Returns the losses of all pairs, JSON-ready, pair → the record of `measure_pair`, under ``pairs``, and ``models``.
    """
    names = [f"{optimizer}-{number}" for optimizer in OPTIMIZERS for number in range(1, seeds + 1)]
    losses = train_models(directory, names, effort, workers=workers, progress=progress)
    parts = {
        f"{a}, {b}": partial(measure_pair, directory, a, b, effort) for kind in kinds() for a, b in pairs(kind, seeds)
    }
    barriers = compute(directory / "barriers", parts, stage="measuring pairs", workers=workers, progress=progress)
    return {"models": losses, "pairs": barriers}


def measure_pair(directory: Path, a: str, b: str, effort: Effort) -> Mapping[str, Any]:
    """Losses and barriers of every path of `WAYS` between two models, on the report text, in nats per token."""
    first, second = model(directory, a), model(directory, b)
    select, report = ({part.label: getattr(part, name) for part in text(effort)} for name in ("select", "report"))
    closed = aligned(first, second, effort)
    ways: dict[str, tuple[Aligned, WeightPath]] = {}
    methods: dict[str, Method] = {"naive": "none", "permutation": "permutation", "orthogonal": "orthogonal"}
    for way, method in methods.items():
        alignment = align_states(first.state, second.state, first.config, method)
        ways[way] = alignment, WeightPath("linear", alignment.a, alignment.b)
    ways["combined"] = closed, WeightPath("linear", closed.a, closed.b)
    plan = LearnPlan(steps=effort.learning)
    learned = learn(
        Universe.of_pair(closed),
        (first.state, second.state),
        to_fit(effort),
        select,
        plan,
        device="cpu",
        progress=Progress(),
    )
    ways["learned"] = closed, learned.path
    ways["one bend"] = closed, trained_path(directory, a, b, effort, start=closed)
    profiles = {way: profile(path, LossMeter(start.config, report), grid()) for way, (start, path) in ways.items()}
    return {
        "barriers": {way: one.barrier for way, one in profiles.items()},
        "stderr": {way: _stderr(one) for way, one in profiles.items()},
        "losses": {way: [losses.mean for _, losses in one.points] for way, one in profiles.items()},
    }


def rows(study: Mapping[str, Any]) -> list[BarrierRow]:
    """The table: for every kind and way, over what `table_study` measured."""
    by_kind: dict[str, list[Mapping[str, float]]] = {}
    for name, record in study["pairs"].items():
        kind = "-".join(optimizer_of(end) for end in name.split(", "))
        by_kind.setdefault(kind, []).append(record["barriers"])
    return [
        BarrierRow(kind, way, mean(values), stdev(values) if len(values) > 1 else 0.0, tuple(values))
        for kind, records in by_kind.items()
        for way in WAYS
        for values in [[record[way] for record in records]]
    ]


def _stderr(measured: Profile) -> float:
    """The standard error of the barrier: that of the excess where it is highest."""
    excesses = [measured.excess(t) for t, _ in measured.points]
    return max(excesses, key=lambda excess: excess.mean).stderr
