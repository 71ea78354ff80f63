"""The study of barriers: pairs of one optimizer and of two, by alignment, on straight lines and with one bend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from ..align.methods import Method
from ..align.pipeline import align_states
from ..align.universe import Universe
from ..eval.barrier import Profile, profile
from ..eval.progress import Progress
from ..merge.path import WeightPath
from ..merge.plans import LearnPlan
from ..merge.search import grid
from .options import Effort, StudyOptions
from .pairs import (
    aligned,
    all_pairs,
    fitter_of,
    kind_of,
    loss_meter,
    model,
    model_names,
    train_models,
    trained_path,
)
from .parts import compute, spread

WAYS = ("naive", "permutation", "orthogonal", "combined", "learned", "one bend")


@dataclass(frozen=True)
class BarrierRow:
    """One kind of pairs, one way: the mean barrier in nats, its standard deviation over pairs, and each of them."""

    kind: str
    way: str
    mean: float
    std: float
    barriers: tuple[float, ...]


def table_study(directory: Path, options: StudyOptions, progress: Progress) -> dict[str, Any]:
    """Train models of every optimizer into `directory`, and measure every pair; finished parts are read back.

    Returns, JSON-ready, the `rows` under ``table``, the last training losses of the ``models``, and the ``pairs``: pair
    → the record of `measure_pair`.
    """
    losses = train_models(directory, model_names(options.size.seeds), options, progress)
    parts = {
        f"{a}, {b}": partial(measure_pair, directory, a, b, options.size.effort)
        for a, b in all_pairs(options.size.seeds)
    }
    barriers = compute(directory / "barriers", parts, "measuring pairs", options.workers, progress)
    return {"table": [asdict(row) for row in rows(barriers)], "models": losses, "pairs": barriers}


def measure_pair(directory: Path, a: str, b: str, effort: Effort) -> Mapping[str, Any]:
    """Losses and barriers of every path of `WAYS` between two models, on the report text, in nats per token."""
    first, second = (model(directory / "models", name) for name in (a, b))
    states, config = (first.state, second.state), first.config
    methods: dict[str, Method] = {"naive": "none", "permutation": "permutation", "orthogonal": "orthogonal"}
    starts = {way: align_states(*states, config, method) for way, method in methods.items()}
    closed = starts["combined"] = aligned(first, second, effort)
    paths = {way: WeightPath("linear", start.a, start.b) for way, start in starts.items()}
    pair, plan = Universe.of_pair(closed), LearnPlan(steps=effort.learning)
    paths["learned"] = fitter_of(first, second, effort, plan.training).learn(pair, states, plan).path
    paths["one bend"], _ = trained_path(directory, a, b, effort, start=closed)
    profiles = {
        way: profile(path, loss_meter(starts.get(way, closed).config, effort), grid()) for way, path in paths.items()
    }
    return {
        "barriers": {way: one.barrier for way, one in profiles.items()},
        "stderr": {way: _stderr(one) for way, one in profiles.items()},
        "losses": {way: [losses.mean for _, losses in one.points] for way, one in profiles.items()},
    }


def rows(pairs: Mapping[str, Any]) -> list[BarrierRow]:
    """The table: for every kind and way, over the pairs that `table_study` measured."""
    by_kind: dict[str, list[Mapping[str, float]]] = {}
    for name, record in pairs.items():
        by_kind.setdefault(kind_of(name), []).append(record["barriers"])
    return [
        BarrierRow(kind, way, mean(values), spread(values), tuple(values))
        for kind, records in by_kind.items()
        for way in WAYS
        for values in [[record[way] for record in records]]
    ]


def _stderr(measured: Profile) -> float:
    """The standard error of the barrier: that of the excess where it is highest."""
    excesses = [measured.excess(t) for t, _ in measured.points]
    return max(excesses, key=lambda excess: excess.mean).stderr
