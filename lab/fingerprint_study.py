"""The study of the spectral fingerprint: models of known optimizers, their fingerprints, and the verdicts on them.

The ranges in `isthmus.eval.fingerprint` were chosen on the models of `CALIBRATION`; those of `HELD_OUT` have other
widths, learning rates and text, and were trained afterwards. SGD has no range: its models have to be
unknown. So have models that were hardly trained, and those that two optimizers trained one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..checkpoint.loading import load
from ..eval.fingerprint import Fingerprint, fingerprint_of, judge
from ..eval.progress import Progress
from ..merge.spectra import spectrum
from .demo import CHECKPOINTS
from .pretrain import CODE, DOCS, EMBEDDED, TrainingRecipe, make_checkpoint, small_config

BOTH, OTHER = (DOCS, CODE), ("stdlib:docs:heldout", "stdlib:code:heldout")


@dataclass(frozen=True)
class Subject:
    """A model to train; the second word of its name is its optimizer. `adamw_lr` counts with Muon alone."""

    name: str
    layers: int
    width: int
    heads: int
    steps: int
    lr: float
    adamw_lr: float
    weight_decay: float
    data: tuple[str, ...]
    seed: int
    base: str | None = None

    @property
    def recipe(self) -> TrainingRecipe:
        """How it is trained."""
        optimizer: Any = self.name.split("-")[1]
        return TrainingRecipe(
            self.name,
            optimizer,
            self.seed,
            self.steps,
            base=self.base,
            data=self.data,
            adamw_lr=self.adamw_lr if optimizer == "muon" else self.lr,
            muon_lr=self.lr,
            weight_decay=self.weight_decay,
        )


CALIBRATION = (
    Subject("c-adamw-64", 3, 64, 4, 600, 2e-3, 2e-3, 0.1, BOTH, 101),
    Subject("c-muon-64", 3, 64, 4, 600, 1e-2, 4e-3, 0.1, BOTH, 102),
    Subject("c-lion-64", 3, 64, 4, 600, 4e-4, 4e-4, 0.3, BOTH, 103),
    Subject("c-sgd-64", 3, 64, 4, 600, 0.3, 0.3, 1e-4, BOTH, 104),
    Subject("c-adamw-96", 2, 96, 3, 500, 4e-3, 4e-3, 0.5, (DOCS,), 105),
    Subject("c-muon-96", 2, 96, 3, 500, 2e-2, 2e-3, 0.0, (DOCS,), 106),
    Subject("c-adamw-64-short", 3, 64, 4, 100, 1e-3, 1e-3, 0.1, (CODE,), 107),
    Subject("c-muon-64-short", 3, 64, 4, 100, 1e-2, 4e-3, 0.1, (CODE,), 108),
    Subject("c-adamw-128-nowd", 3, 128, 8, 500, 1e-3, 1e-3, 0.0, (CODE,), 109),
    Subject("c-muon-128", 3, 128, 8, 500, 5e-3, 3e-3, 0.3, (CODE,), 110),
    Subject("c-lion-128", 3, 128, 8, 400, 2e-4, 2e-4, 1.0, (CODE,), 111),
    Subject("c-adamw-96-long", 2, 96, 6, 1500, 3e-3, 3e-3, 0.3, BOTH, 112),
    Subject("c-muon-96-long", 2, 96, 6, 1500, 1e-2, 4e-3, 0.3, BOTH, 113),
    Subject("c-adamw-96-low", 4, 96, 4, 600, 5e-4, 5e-4, 0.1, BOTH, 114),
    Subject("c-muon-96-low", 4, 96, 4, 600, 3e-3, 2e-3, 0.1, BOTH, 115),
    Subject("c-sgd-128", 3, 128, 8, 400, 1.0, 1.0, 0.0, (CODE,), 116),
    Subject("c-muon-on-adamw", 4, 128, 4, 300, 5e-3, 1e-3, 0.3, (CODE,), 117, "adamw-1"),
    Subject("c-adamw-on-muon", 4, 128, 4, 300, 1e-3, 1e-3, 0.5, (CODE,), 118, "muon-1"),
    Subject("c-lion-64-good", 3, 64, 4, 600, 1e-3, 1e-3, 0.1, BOTH, 119),
    Subject("c-lion-96", 2, 96, 3, 500, 1.5e-3, 1.5e-3, 0.3, (DOCS,), 120),
    Subject("c-sgd-64-good", 3, 64, 4, 600, 3.0, 3.0, 0.0, BOTH, 121),
    Subject("x-adamw-30", 3, 64, 4, 30, 1e-3, 1e-3, 0.1, BOTH, 301),
    Subject("x-adamw-50", 3, 64, 4, 50, 1e-3, 1e-3, 0.1, BOTH, 302),
    Subject("x-adamw-60", 2, 96, 3, 60, 3e-3, 3e-3, 0.1, BOTH, 303),
    Subject("x-lion-50", 3, 64, 4, 50, 4e-4, 4e-4, 0.1, BOTH, 304),
    Subject("x-adamw-lowlr", 3, 64, 4, 250, 2e-4, 2e-4, 0.1, BOTH, 305),
    Subject("x-adamw-3e4", 3, 64, 4, 400, 3e-4, 3e-4, 0.1, BOTH, 306),
    Subject("x-muon-30", 3, 64, 4, 30, 1e-2, 4e-3, 0.1, BOTH, 307),
    Subject("x-muon-50", 2, 96, 3, 50, 1e-2, 2e-3, 0.1, BOTH, 308),
    Subject("x-sgd-100", 3, 64, 4, 100, 0.3, 0.3, 0.0, BOTH, 309),
    Subject("x-lion-150", 2, 80, 5, 150, 2e-4, 2e-4, 0.0, BOTH, 310),
    Subject("t-adamw-80", 2, 80, 5, 600, 2e-3, 2e-3, 0.2, (DOCS,), 201),
    Subject("t-muon-80", 2, 80, 5, 400, 1.5e-2, 3e-3, 0.1, (DOCS,), 202),
    Subject("t-adamw-112", 3, 112, 7, 400, 3e-3, 3e-3, 0.05, (CODE,), 203),
    Subject("t-muon-112", 3, 112, 7, 400, 8e-3, 2e-3, 0.2, (CODE,), 204),
    Subject("t-lion-80", 2, 80, 5, 500, 1e-3, 1e-3, 0.1, BOTH, 205),
    Subject("t-lion-112", 3, 112, 7, 400, 6e-4, 6e-4, 0.5, (DOCS,), 206),
    Subject("t-sgd-80", 2, 80, 5, 600, 2.0, 2.0, 0.0, BOTH, 207),
    Subject("t-adamw-64-high", 3, 64, 4, 600, 8e-3, 8e-3, 0.1, BOTH, 208),
    Subject("t-muon-64-high", 3, 64, 4, 500, 4e-2, 4e-3, 0.1, BOTH, 209),
    Subject("t-adamw-64-b", 4, 64, 2, 500, 1e-3, 1e-3, 1.0, (DOCS,), 210),
    Subject("t-muon-64-b", 4, 64, 2, 400, 5e-3, 1e-3, 0.0, (CODE,), 211),
)
HELD_OUT = (
    Subject("h-adamw-88", 3, 88, 4, 500, 2.5e-3, 2.5e-3, 0.2, OTHER, 401),
    Subject("h-muon-88", 3, 88, 4, 400, 1.2e-2, 2e-3, 0.2, OTHER, 402),
    Subject("h-adamw-120", 2, 120, 6, 500, 1.5e-3, 1.5e-3, 0.1, OTHER[1:], 403),
    Subject("h-muon-120", 2, 120, 6, 400, 6e-3, 3e-3, 0.2, OTHER[1:], 404),
    Subject("h-adamw-72", 5, 72, 6, 500, 3e-3, 3e-3, 0.4, OTHER[:1], 405),
    Subject("h-muon-72", 5, 72, 6, 350, 2.5e-2, 2e-3, 0.05, OTHER[:1], 406),
    Subject("h-lion-88", 3, 88, 4, 500, 8e-4, 8e-4, 0.2, OTHER, 407),
    Subject("h-lion-120", 2, 120, 6, 400, 1.2e-3, 1.2e-3, 0.1, OTHER[1:], 408),
    Subject("h-sgd-88", 3, 88, 4, 500, 0.5, 0.5, 0.0, OTHER, 409),
    Subject("h-adamw-88-short", 3, 88, 4, 80, 2e-3, 2e-3, 0.1, OTHER, 410),
    Subject("h-adamw-144", 2, 144, 4, 400, 2e-3, 2e-3, 0.1, OTHER, 411),
    Subject("h-muon-144", 2, 144, 4, 300, 8e-3, 4e-3, 0.1, OTHER, 412),
    Subject("h-adamw-64-slow", 2, 64, 4, 600, 4e-4, 4e-4, 0.1, OTHER, 413),
    Subject("h-muon-64-slow", 2, 64, 4, 200, 2e-3, 5e-4, 0.1, OTHER, 414),
)


@dataclass(frozen=True)
class FingerprintVerdict:
    """One line of the table: the optimizer that trained a model, its fingerprint, and the verdict on that."""

    name: str
    trained_by: str
    held_out: bool
    numbers: Fingerprint
    judged: str | None

    @property
    def outcome(self) -> Literal["right", "unknown", "wrong"]:
        """Whether the verdict is right; a model of two optimizers is right to be unknown, and wrong otherwise."""
        if self.judged is None:
            return "unknown"
        return "right" if self.judged == self.trained_by else "wrong"


def fingerprint_study(
    directory: Path, subjects: Sequence[Subject] = CALIBRATION + HELD_OUT, progress: Progress | None = None
) -> list[FingerprintVerdict]:
    """Train the models into `directory`, except for those that are there, and judge them and the embedded ones."""
    progress = progress or Progress()
    places = {}
    for subject in subjects:
        recipe, place = subject.recipe, directory / subject.name
        places[recipe.name] = place, recipe.optimizer if recipe.base is None else "two"
        if not place.exists():
            config = small_config(layers=subject.layers, width=subject.width, heads=subject.heads)
            make_checkpoint(recipe, config, directory, progress)
    places |= {recipe.name: (CHECKPOINTS / recipe.name, recipe.optimizer) for recipe in EMBEDDED}
    held_out = {subject.name for subject in HELD_OUT}
    progress.stage("measuring fingerprints", len(places))
    verdicts = []
    for name, (place, optimizer) in places.items():
        model = load(place)
        state = dict(model.state)
        numbers = fingerprint_of(state, model.config, spectrum(state, model.config))
        verdicts.append(FingerprintVerdict(name, optimizer, name in held_out, numbers, judge(numbers).optimizer))
        progress.advance()
    return verdicts
