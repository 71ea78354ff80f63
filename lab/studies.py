"""The studies by name: what each computes, at full and at quick size, its figure, and the record that is kept of it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.errors import BadInput
from ..checkpoint.saving import replace_file, replace_json
from ..checkpoint.working_folders import FolderLock
from ..eval.figures import png
from ..merge.progress import Progress
from . import figures
from .generalization import ELSEWHERE, generalization_study
from .pairs import HELD_OUT, QUICK, SEEDS, Effort
from .planes import planes_study
from .practice import practice_study
from .relu.study import QUICK as QUICK_NETWORKS
from .relu.study import Plan, relu_study
from .spectra import spectra_study
from .table import rows, table_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETTINGS, LOCK = "settings.json", ".isthmus-lock"


@dataclass(frozen=True)
class Asked:
    """What a study is run with: quick or full, how many parts at a time, and, for those that measure it, more text."""

    quick: bool = False
    workers: int = 1
    elsewhere: tuple[str, ...] = ()

    @property
    def effort(self) -> Effort:
        """How much is spent on small GPT-2s."""
        return QUICK if self.quick else Effort()

    @property
    def plan(self) -> Plan:
        """How much is spent on two-layer networks."""
        return QUICK_NETWORKS if self.quick else Plan()

    @property
    def seeds(self) -> int:
        """Models an optimizer."""
        return 2 if self.quick else SEEDS

    @property
    def fine_tunes(self) -> int:
        """Fine-tunes of every kind."""
        return 1 if self.quick else SEEDS

    def settings(self) -> dict[str, Any]:
        """What parts depend on, JSON-ready."""
        return {
            "seeds": self.seeds,
            "fine_tunes": self.fine_tunes,
            "effort": asdict(self.effort),
            "networks": asdict(self.plan),
        }


@dataclass(frozen=True)
class Study:
    """A study: the question it asks, what it computes in a directory, and the figure of what it found."""

    question: str
    run: Callable[[Path, Asked, Progress], dict[str, Any]]
    figure: Callable[[Mapping[str, Any]], Figure]


def _relu(directory: Path, asked: Asked, progress: Progress) -> dict[str, Any]:
    return relu_study(directory, asked.plan, workers=asked.workers, progress=progress)


def _table(directory: Path, asked: Asked, progress: Progress) -> dict[str, Any]:
    found = table_study(directory, asked.effort, seeds=asked.seeds, workers=asked.workers, progress=progress)
    return {"table": [asdict(row) for row in rows(found)], **found}


def _spectra(directory: Path, asked: Asked, progress: Progress) -> dict[str, Any]:
    return spectra_study(directory, asked.effort, seeds=asked.seeds, workers=asked.workers, progress=progress)


def _planes(directory: Path, asked: Asked, progress: Progress) -> dict[str, Any]:
    found = planes_study(directory, asked.effort, seeds=asked.seeds, workers=asked.workers, progress=progress)
    return {"planes": found}


def _generalization(directory: Path, asked: Asked, progress: Progress) -> dict[str, Any]:
    texts = (*ELSEWHERE, *asked.elsewhere)
    found = generalization_study(
        directory, asked.effort, elsewhere=texts, seeds=asked.seeds, workers=asked.workers, progress=progress
    )
    return {"texts": [HELD_OUT, *texts], "pairs": found}


def _practice(directory: Path, asked: Asked, progress: Progress) -> dict[str, Any]:
    return practice_study(directory, asked.effort, seeds=asked.fine_tunes, workers=asked.workers, progress=progress)


STUDIES = {
    "relu": Study(
        "Which zero-loss two-layer networks of one optimizer are connected inside its constraint set?",
        _relu,
        figures.relu_figure,
    ),
    "table": Study(
        "How high are the barriers between small GPT-2s of one optimizer, and of two?", _table, figures.table_figure
    ),
    "spectra": Study(
        "Do paths keep the spectrum, and do the thresholds of the verdict tell kinds apart?",
        _spectra,
        figures.spectra_figure,
    ),
    "planes": Study(
        "Does alignment bring three models into one basin, of one optimizer and of three?",
        _planes,
        figures.planes_figure,
    ),
    "generalization": Study(
        "Are points on paths good on other text, and does an ensemble gain by them?",
        _generalization,
        figures.generalization_figure,
    ),
    "practice": Study(
        "Does the optimizer of fine-tuning change how well models merge, and is a merge a good start?",
        _practice,
        figures.practice_figure,
    ),
}


def run_study(name: str, directory: Path, asked: Asked, progress: Progress | None = None) -> dict[str, Any]:
    """Run a study of `STUDIES` in a directory and write NAME.json and NAME.png there; finished parts are not repeated.

    The record has the question, the settings with all seeds, versions, the machine, and what was found.

    Raises BadInput when the directory has parts of other settings.
    """
    study = STUDIES[name]
    _require_same(directory / SETTINGS, asked)
    with FolderLock(
        directory, f"another process works in '{directory.name}': wait for it, or take another directory", LOCK
    ):
        replace_json(directory / SETTINGS, asked.settings())
        record = {
            "study": name,
            "question": study.question,
            "settings": asked.settings(),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
            "versions": {package: version(package) for package in ("isthmus", "torch", "transformers")},
            **study.run(directory, asked, progress or Progress()),
        }
        replace_json(directory / f"{name}.json", record)
        replace_file(directory / f"{name}.png", png(study.figure(record)))
    return record


def _require_same(file: Path, asked: Asked) -> None:
    """That a directory is new, or holds parts of a study, which were computed with these settings."""
    directory = file.parent
    if directory.exists() and not directory.is_dir():
        raise BadInput(f"'{directory.name}' is not a directory: take another for the study")
    if not file.exists():
        others = sorted(path.name for path in directory.iterdir() if path.name != LOCK) if directory.is_dir() else []
        if others:
            raise BadInput(f"'{directory.name}' holds '{others[0]}', which is of no study: take a new directory")
        return
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        settings = None
    if settings != json.loads(json.dumps(asked.settings())):
        raise BadInput(f"'{directory.name}' holds parts of a study with other settings: take another directory")
