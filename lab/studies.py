"""The studies by name: what each computes, at full and at quick size, its figure, and its record."""

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
from ..eval.progress import Progress
from .generalization import generalization_study
from .options import StudyOptions
from .planes import planes_study
from .practice import practice_study
from .relu.relu_figure import relu_figure
from .relu.study import relu_study
from .spectra_study import spectra_study
from .study_figures import (
    generalization_figure,
    planes_figure,
    practice_figure,
    spectra_figure,
    table_figure,
    width_figure,
)
from .table import table_study
from .width import width_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETTINGS, LOCK = "settings.json", ".isthmus-lock"


@dataclass(frozen=True)
class Study:
    """A study: its question, what it computes in a directory, and its figure."""

    question: str
    run: Callable[[Path, StudyOptions, Progress], dict[str, Any]]
    figure: Callable[[Mapping[str, Any]], Figure]


STUDIES = {
    "relu": Study(
        "Which zero-loss two-layer networks of one optimizer are connected inside its constraint set?",
        relu_study,
        relu_figure,
    ),
    "table": Study(
        "How high are the barriers between small GPT-2s of one optimizer, and of two?", table_study, table_figure
    ),
    "spectra": Study(
        "Do paths keep the spectrum, and do the thresholds of the verdict tell kinds apart?",
        spectra_study,
        spectra_figure,
    ),
    "planes": Study(
        "Does alignment bring three models into one basin, of one optimizer and of three?",
        planes_study,
        planes_figure,
    ),
    "generalization": Study(
        "Are points on paths good on other text, and does an ensemble gain by them?",
        generalization_study,
        generalization_figure,
    ),
    "practice": Study(
        "Does the optimizer of fine-tuning change how well models merge, and is a merge a good start?",
        practice_study,
        practice_figure,
    ),
    "width": Study("Do barriers between models of equal loss fall as they grow wider?", width_study, width_figure),
}


def run_study(name: str, directory: Path, options: StudyOptions, progress: Progress | None = None) -> dict[str, Any]:
    """Run a study of `STUDIES` in a directory and write NAME.json and NAME.png there; finished parts are not repeated.

    The record has the question, the settings with all seeds, versions, the machine, and the results.

    Raises BadInput when the directory has parts of other settings.
    """
    study = STUDIES[name]
    _require_same(directory / SETTINGS, options)
    with FolderLock(
        directory, f"another process works in '{directory.name}': wait for it, or take another directory", LOCK
    ):
        replace_json(directory / SETTINGS, asdict(options.size))
        record = {
            "study": name,
            "question": study.question,
            "settings": asdict(options.size),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
            "versions": {package: version(package) for package in ("isthmus", "torch", "transformers")},
            **study.run(directory, options, progress or Progress()),
        }
        replace_json(directory / f"{name}.json", record)
        replace_file(directory / f"{name}.png", png(study.figure(record)))
    return record


def _require_same(file: Path, options: StudyOptions) -> None:
    """Refuse a directory unless it is new, or holds parts of a study with the same settings."""
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
    if settings != json.loads(json.dumps(asdict(options.size))):
        raise BadInput(f"'{directory.name}' holds parts of a study with other settings: take another directory")
