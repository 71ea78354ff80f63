"""The study of planes through three models, of one optimizer and of three, before and after alignment.

The second and the third model are aligned to the first by weights and activations. All averages of the three lie in the
plane, which is measured for the first three of every kind, on few blocks; the plain average is measured for all
triples, on the whole report text.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..align.pipeline import align_states
from ..eval.loss import LossMeter
from ..eval.plane import affine_combination, measure_plane
from ..eval.progress import Progress
from .options import SEEDS, Effort, StudyOptions
from .pairs import OPTIMIZERS, aligned, loss_meter, model, train_models
from .parts import compute

if TYPE_CHECKING:
    from transformers import PretrainedConfig

BLOCKS = 16  # measured at every point of a plane


def planes_study(directory: Path, options: StudyOptions, progress: Progress) -> dict[str, Any]:
    """Planes of all `triples`, JSON-ready; models that are in `directory` are used."""
    names = triples(options.size.seeds)
    train_models(directory, sorted({name for three in names for name in three}), options, progress)
    parts = {", ".join(three): partial(measure_triple, directory, three, options.size.effort) for three in names}
    return {"planes": compute(directory / "planes", parts, "measuring planes", options.workers, progress)}


def triples(seeds: int = SEEDS) -> list[tuple[str, str, str]]:
    """Three models of one optimizer, and one of each optimizer: as many as seeds; with two seeds, only one of each."""
    numbers = [[(start + shift) % seeds + 1 for shift in range(3)] for start in range(seeds)] if seeds > 2 else []
    same = [[f"{one}-{number}" for number in three] for one in OPTIMIZERS for three in numbers]
    each = [[f"{one}-{number}" for one in OPTIMIZERS] for number in range(1, 1 + max(1, len(numbers)))]
    return [(a, b, c) for a, b, c in (*same, *each)]


def measure_triple(directory: Path, names: tuple[str, str, str], effort: Effort) -> Mapping[str, Any]:
    """Three models before and after alignment: losses in nats per token, with the plane for the first of a kind."""
    first, *others = (model(directory / "models", name) for name in names)
    alignments = {
        "before": [align_states(first.state, other.state, first.config, "none") for other in others],
        "after": [aligned(first, other, effort) for other in others],
    }
    return {
        way: _measured(dict(zip(names, [one.a, one.b, two.b], strict=True)), one.config, effort)
        for way, (one, two) in alignments.items()
    }


def _measured(states: Mapping[str, Mapping[str, Tensor]], config: PretrainedConfig, effort: Effort) -> dict[str, Any]:
    meter, drawn = loss_meter(config, effort), next(iter(states)).endswith("-1")
    a, b, c = (meter(state) for state in states.values())
    average = meter(affine_combination(list(states.values()), (1 / 3,) * 3))
    excess = average - a.mixed(b, 0.5).mixed(c, 1 / 3)
    few = LossMeter(config, {label: blocks[:BLOCKS] for label, blocks in meter.blocks.items()})
    return {
        "plane": measure_plane(states, few, resolution=effort.plane).to_dict() if drawn else None,
        "ends": [a.mean, b.mean, c.mean],
        "average": average.mean,
        "excess": [excess.mean, excess.stderr],
    }
