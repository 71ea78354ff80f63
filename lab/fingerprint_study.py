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
from ..eval.fingerprint import Fingerprint, judge
from ..eval.optimizer_inference import fingerprint_of
from ..eval.progress import Progress
from ..merge.spectra import spectrum
from .demo import CHECKPOINTS
from .pretrain import CODE, DOCS, EMBEDDED, TrainingRecipe, make_checkpoint, small_config

BOTH, OTHER = (DOCS, CODE), ("stdlib:docs:heldout", "stdlib:code:heldout")


@dataclass(frozen=True)
class Subject:
    """A model to train: its recipe and its size."""

    recipe: TrainingRecipe
    layers: int
    width: int
    heads: int


def _subject(
    name: str,
    layers: int,
    width: int,
    heads: int,
    steps: int,
    lr: float,
    adamw_lr: float,
    decay: float,
    data: Sequence[str],
    seed: int,
    base: str | None = None,
) -> Subject:
    """A model; its optimizer is the second word of its name. `adamw_lr` counts with Muon alone."""
    optimizer: Any = name.split("-")[1]
    recipe = TrainingRecipe(
        name,
        optimizer,
        seed,
        steps,
        base=base,
        data=tuple(data),
        adamw_lr=adamw_lr if optimizer == "muon" else lr,
        muon_lr=lr,
        weight_decay=decay,
    )
    return Subject(recipe, layers, width, heads)


CALIBRATION = (
    _subject("c-adamw-64", 3, 64, 4, 600, 2e-3, 2e-3, 0.1, BOTH, 101),
    _subject("c-muon-64", 3, 64, 4, 600, 1e-2, 4e-3, 0.1, BOTH, 102),
    _subject("c-lion-64", 3, 64, 4, 600, 4e-4, 4e-4, 0.3, BOTH, 103),
    _subject("c-sgd-64", 3, 64, 4, 600, 0.3, 0.3, 1e-4, BOTH, 104),
    _subject("c-adamw-96", 2, 96, 3, 500, 4e-3, 4e-3, 0.5, [DOCS], 105),
    _subject("c-muon-96", 2, 96, 3, 500, 2e-2, 2e-3, 0.0, [DOCS], 106),
    _subject("c-adamw-64-short", 3, 64, 4, 100, 1e-3, 1e-3, 0.1, [CODE], 107),
    _subject("c-muon-64-short", 3, 64, 4, 100, 1e-2, 4e-3, 0.1, [CODE], 108),
    _subject("c-adamw-128-nowd", 3, 128, 8, 500, 1e-3, 1e-3, 0.0, [CODE], 109),
    _subject("c-muon-128", 3, 128, 8, 500, 5e-3, 3e-3, 0.3, [CODE], 110),
    _subject("c-lion-128", 3, 128, 8, 400, 2e-4, 2e-4, 1.0, [CODE], 111),
    _subject("c-adamw-96-long", 2, 96, 6, 1500, 3e-3, 3e-3, 0.3, BOTH, 112),
    _subject("c-muon-96-long", 2, 96, 6, 1500, 1e-2, 4e-3, 0.3, BOTH, 113),
    _subject("c-adamw-96-low", 4, 96, 4, 600, 5e-4, 5e-4, 0.1, BOTH, 114),
    _subject("c-muon-96-low", 4, 96, 4, 600, 3e-3, 2e-3, 0.1, BOTH, 115),
    _subject("c-sgd-128", 3, 128, 8, 400, 1.0, 1.0, 0.0, [CODE], 116),
    _subject("c-muon-on-adamw", 4, 128, 4, 300, 5e-3, 1e-3, 0.3, [CODE], 117, "adamw-1"),
    _subject("c-adamw-on-muon", 4, 128, 4, 300, 1e-3, 1e-3, 0.5, [CODE], 118, "muon-1"),
    _subject("c-lion-64-good", 3, 64, 4, 600, 1e-3, 1e-3, 0.1, BOTH, 119),
    _subject("c-lion-96", 2, 96, 3, 500, 1.5e-3, 1.5e-3, 0.3, [DOCS], 120),
    _subject("c-sgd-64-good", 3, 64, 4, 600, 3.0, 3.0, 0.0, BOTH, 121),
    _subject("x-adamw-30", 3, 64, 4, 30, 1e-3, 1e-3, 0.1, BOTH, 301),
    _subject("x-adamw-50", 3, 64, 4, 50, 1e-3, 1e-3, 0.1, BOTH, 302),
    _subject("x-adamw-60", 2, 96, 3, 60, 3e-3, 3e-3, 0.1, BOTH, 303),
    _subject("x-lion-50", 3, 64, 4, 50, 4e-4, 4e-4, 0.1, BOTH, 304),
    _subject("x-adamw-lowlr", 3, 64, 4, 250, 2e-4, 2e-4, 0.1, BOTH, 305),
    _subject("x-adamw-3e4", 3, 64, 4, 400, 3e-4, 3e-4, 0.1, BOTH, 306),
    _subject("x-muon-30", 3, 64, 4, 30, 1e-2, 4e-3, 0.1, BOTH, 307),
    _subject("x-muon-50", 2, 96, 3, 50, 1e-2, 2e-3, 0.1, BOTH, 308),
    _subject("x-sgd-100", 3, 64, 4, 100, 0.3, 0.3, 0.0, BOTH, 309),
    _subject("x-lion-150", 2, 80, 5, 150, 2e-4, 2e-4, 0.0, BOTH, 310),
    _subject("t-adamw-80", 2, 80, 5, 600, 2e-3, 2e-3, 0.2, [DOCS], 201),
    _subject("t-muon-80", 2, 80, 5, 400, 1.5e-2, 3e-3, 0.1, [DOCS], 202),
    _subject("t-adamw-112", 3, 112, 7, 400, 3e-3, 3e-3, 0.05, [CODE], 203),
    _subject("t-muon-112", 3, 112, 7, 400, 8e-3, 2e-3, 0.2, [CODE], 204),
    _subject("t-lion-80", 2, 80, 5, 500, 1e-3, 1e-3, 0.1, BOTH, 205),
    _subject("t-lion-112", 3, 112, 7, 400, 6e-4, 6e-4, 0.5, [DOCS], 206),
    _subject("t-sgd-80", 2, 80, 5, 600, 2.0, 2.0, 0.0, BOTH, 207),
    _subject("t-adamw-64-high", 3, 64, 4, 600, 8e-3, 8e-3, 0.1, BOTH, 208),
    _subject("t-muon-64-high", 3, 64, 4, 500, 4e-2, 4e-3, 0.1, BOTH, 209),
    _subject("t-adamw-64-b", 4, 64, 2, 500, 1e-3, 1e-3, 1.0, [DOCS], 210),
    _subject("t-muon-64-b", 4, 64, 2, 400, 5e-3, 1e-3, 0.0, [CODE], 211),
)
HELD_OUT = (
    _subject("h-adamw-88", 3, 88, 4, 500, 2.5e-3, 2.5e-3, 0.2, OTHER, 401),
    _subject("h-muon-88", 3, 88, 4, 400, 1.2e-2, 2e-3, 0.2, OTHER, 402),
    _subject("h-adamw-120", 2, 120, 6, 500, 1.5e-3, 1.5e-3, 0.1, OTHER[1:], 403),
    _subject("h-muon-120", 2, 120, 6, 400, 6e-3, 3e-3, 0.2, OTHER[1:], 404),
    _subject("h-adamw-72", 5, 72, 6, 500, 3e-3, 3e-3, 0.4, OTHER[:1], 405),
    _subject("h-muon-72", 5, 72, 6, 350, 2.5e-2, 2e-3, 0.05, OTHER[:1], 406),
    _subject("h-lion-88", 3, 88, 4, 500, 8e-4, 8e-4, 0.2, OTHER, 407),
    _subject("h-lion-120", 2, 120, 6, 400, 1.2e-3, 1.2e-3, 0.1, OTHER[1:], 408),
    _subject("h-sgd-88", 3, 88, 4, 500, 0.5, 0.5, 0.0, OTHER, 409),
    _subject("h-adamw-88-short", 3, 88, 4, 80, 2e-3, 2e-3, 0.1, OTHER, 410),
    _subject("h-adamw-144", 2, 144, 4, 400, 2e-3, 2e-3, 0.1, OTHER, 411),
    _subject("h-muon-144", 2, 144, 4, 300, 8e-3, 4e-3, 0.1, OTHER, 412),
    _subject("h-adamw-64-slow", 2, 64, 4, 600, 4e-4, 4e-4, 0.1, OTHER, 413),
    _subject("h-muon-64-slow", 2, 64, 4, 200, 2e-3, 5e-4, 0.1, OTHER, 414),
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
    tokenizer = load(CHECKPOINTS / "docs").tokenizer()
    places = {}
    for subject in subjects:
        recipe = subject.recipe
        places[recipe.name] = (directory / recipe.name, recipe.optimizer if recipe.base is None else "two")
        if not (directory / recipe.name).exists():
            config = small_config(layers=subject.layers, width=subject.width, heads=subject.heads)
            start = dict(load(CHECKPOINTS / recipe.base).state) if recipe.base else None
            make_checkpoint(recipe, config, tokenizer, start, directory, progress)
    for recipe in EMBEDDED:
        places[recipe.name] = (CHECKPOINTS / recipe.name, recipe.optimizer)
    held_out = {subject.recipe.name for subject in HELD_OUT}
    progress.stage("measuring fingerprints", len(places))
    verdicts = []
    for name, (place, optimizer) in places.items():
        model = load(place)
        state = dict(model.state)
        numbers = fingerprint_of(state, model.config, spectrum(state, model.config))
        verdicts.append(FingerprintVerdict(name, optimizer, name in held_out, numbers, judge(numbers).optimizer))
        progress.advance()
    return verdicts
