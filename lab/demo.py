"""The main job on the embedded checkpoints: what `isthmus demo` runs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.path_conflicts import model_places
from ..checkpoint.saving import require_free
from ..eval.progress import Progress
from ..merge.pipeline import merge_models
from ..merge.plans import LearnPlan, MergePlan

CHECKPOINTS = Path(__file__).parent / "checkpoints"
DATA = ("stdlib:docs:heldout", "stdlib:code:heldout")
LEARN = LearnPlan(steps=100)  # takes seconds; the default learns longer


@dataclass(frozen=True)
class Example:
    """A merge of two embedded checkpoints, and what it shows."""

    name: str
    title: str
    a: str
    b: str

    def command(self, output: Path) -> str:
        """The command line that does the same."""
        models = [str(CHECKPOINTS / model) for model in (self.a, self.b)]
        data = [argument for spec in DATA for argument in ("--data", spec)]
        steps = ["--align-steps", str(LEARN.steps)]
        return shlex.join(["isthmus", "merge", *models, "-o", str(output / self.name), *data, *steps])


EXAMPLES = (
    Example("docs-code", "Two fine-tunes of one base: one on docstrings, one on code", "docs", "code"),
    Example("adamw-muon", "Two strangers: one trained by AdamW, one by Muon", "adamw-1", "muon-1"),
)


def require_room(output: Path, *, overwrite: bool) -> None:
    """Refuse a directory that the examples cannot be written into, before any work is done."""
    inputs = model_places(CHECKPOINTS / model for example in EXAMPLES for model in (example.a, example.b))
    for example in EXAMPLES:
        require_free(output / example.name, overwrite=overwrite, inputs=inputs)


def run_example(example: Example, output: Path, *, overwrite: bool, progress: Progress) -> dict[str, Any]:
    """Merge the two checkpoints into a directory of that name below `output`; returns the report."""
    models = [CHECKPOINTS / example.a, CHECKPOINTS / example.b]
    result = merge_models(models, MergePlan(data=DATA, learn=LEARN), progress=progress)
    progress.stage("saving")
    return result.save(output / example.name, overwrite=overwrite)
