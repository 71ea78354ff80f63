"""A forecast of a merge: what it will read, train and measure, in what memory and time, before any of it is done."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoint.errors import TooLittleText
from ...checkpoint.loading import Checkpoint
from ...eval.progress import Progress
from ..job import Job, open_job
from ..plans import MergePlan
from ..reading import MergeText, read_text
from ..recipes.recipe import Recipe
from .speed import speed_of_algebra, speed_of_disk, speed_of_model
from .stages import Outline
from .work import NOTHING, Stage, Work

LATER = 0.05e9  # bytes of libraries that are imported where there is text: accelerate, matplotlib, their caches
LONG = 2e12  # floating-point operations of a merge whose progress bar says how long the whole takes
BACKWARD = 3  # times the operations of a forward pass that a training step takes


@dataclass(frozen=True)
class Forecast:
    """The stages of a merge and how many seconds each will take; the bytes of memory that all takes at its peak.

    Which stages there are hangs on the barrier where the alignment is ``auto``: they are those for models of one base
    that need none, or those for strangers, as `relatives` says; `otherwise` is how long the other takes, None where
    nothing hangs on it. `models` are in words what is merged, `weights` the parameters of one, `text` the tokens to
    choose by and to report on of every label. `elapsed` are the seconds that checking and reading the text took, which
    the merge will take again.
    """

    stages: tuple[Stage, ...]
    seconds: tuple[float, ...]
    memory: float
    models: tuple[str, ...]
    weights: int
    text: dict[str, dict[str, int]]
    elapsed: float
    device: str
    threads: int
    relatives: bool = False
    otherwise: float | None = None

    @property
    def work(self) -> Work:
        """All of it."""
        return sum((stage.work for stage in self.stages), NOTHING)

    @property
    def operations(self) -> float:
        """Floating-point operations, about."""
        return _operations(self.work, self.weights)

    @property
    def total(self) -> float:
        """Seconds of the whole."""
        return self.elapsed + sum(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "schema": 1,
            "command": "plan",
            "models": list(self.models),
            "weights": self.weights,
            "text": self.text,
            **_amounts(self.work),
            "operations": round(self.operations),
            "memory": round(self.memory),
            "machine_memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "seconds": round(self.total, 1),
            "relatives": self.relatives,
            "seconds_otherwise": None if self.otherwise is None else round(self.otherwise, 1),
            "device": self.device,
            "threads": self.threads,
            "opening_seconds": round(self.elapsed, 2),
            "stages": [
                {"name": stage.name, "seconds": round(seconds, 2), **_amounts(stage.work), "memory": round(stage.holds)}
                for stage, seconds in zip(self.stages, self.seconds, strict=True)
            ],
        }


def _amounts(work: Work) -> dict[str, int]:
    """What is read, measured, trained and written, in numbers that do not hang on a machine."""
    return {
        "bytes_read": round(work.read),
        "bytes_stored": round(work.stored),
        "tokens_evaluated": round(work.evaluated),
        "training_steps": round(work.steps),
        "tokens_trained": round(work.trained),
        "tokens_generated": round(work.written),
    }


def forecast(
    models: Sequence[str | Path | Checkpoint] | Recipe,
    plan: MergePlan = MergePlan(),  # noqa: B008
    *,
    progress: Progress | None = None,
    before: float = 0.0,
) -> Forecast:
    """What `isthmus.merge.pipeline.merge_models` of the same models and plan will do, in what memory and time.

    The models are checked and the text is read, so that what is wrong with either is found, and no weights are read.
    Speeds are measured in a second or two (`isthmus.merge.forecast.speed`). `before` are seconds that came before this
    call, and will again. Times are of a machine that does nothing else; a training that stops early takes less.

    Raises as `merge_models` does before it reads weights.
    """
    progress, began = progress or Progress(), time.monotonic()
    job = open_job(models, plan, None, progress, in_memory=False)
    text, enough = _text(job)
    elapsed = before + time.monotonic() - began
    return foreseen(job, text, enough, elapsed)


def foreseen(job: Job, text: MergeText, enough: bool = True, elapsed: float = 0.0) -> Forecast:
    """The same of models that are open and text that is read, which is `enough` to learn an alignment on or not."""
    outline, resident = Outline(job, text, enough), _resident()
    job.progress.stage("measuring how fast this machine is")
    rates = speed_of_algebra() + speed_of_disk(job)
    if any(stage.work.evaluated for stage in outline.stages()):
        measured, kept = speed_of_model(
            outline.config, _blocks(text, job), job.device, trainee=outline.trainee, writes=outline.writes
        )
        rates, outline = rates + measured, replace(outline, kept=kept)
    likely, other = _ways(outline)
    stages = likely.stages()
    otherwise = None if other is None else elapsed + sum(stage.work.seconds(rates) for stage in other.stages())
    return Forecast(
        tuple(stages),
        tuple(stage.work.seconds(rates) for stage in stages),
        resident + LATER * bool(text) + max(stage.holds for stage in stages),
        tuple(member.name for member in job.inputs.whole),
        round(outline.state / 4),
        {part.label: {"select": part.select.numel(), "report": part.report.numel()} for part in text.parts},
        elapsed,
        job.device,
        torch.get_num_threads(),
        _are_relatives(job),
        otherwise,
    )


def _are_relatives(job: Job) -> bool:
    """Whether nothing that `check` found says that the models were trained from different bases."""
    return not any(finding.cause == "base" for finding in job.inputs.findings)


def _ways(outline: Outline) -> tuple[Outline, Outline | None]:
    """The way that a merge likely goes, and the other one that ``auto`` may take; None where nothing hangs on it."""
    job = outline.job
    if job.plan.alignment != "auto" or not job.in_table:
        return outline, None
    as_they_are = replace(outline, job=replace(job, plan=replace(job.plan, align="none")))
    return (as_they_are, outline) if _are_relatives(job) else (outline, as_they_are)


def expected(job: Job, text: MergeText) -> list[tuple[str, float]]:
    """The stages of a merge and their seconds, for its progress bar; none of what is short anyway, for finding out how
    fast the machine is takes a second or two.
    """
    likely, _ = _ways(Outline(job, text))
    work = sum((stage.work for stage in likely.stages()), NOTHING)
    if _operations(work, likely.state / 4) < LONG:
        return []
    try:
        whole = foreseen(job, text)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return []  # an architecture that takes no fewer layers: no reason not to merge
    return [(stage.name, seconds) for stage, seconds in zip(whole.stages, whole.seconds, strict=True)]


def _operations(work: Work, weights: float) -> float:
    """Floating-point operations, about: two for every weight and token forwards, and what aligning multiplies."""
    return 2.0 * weights * (work.evaluated + work.written + (1 + BACKWARD) * work.trained) + work.products


def _text(job: Job) -> tuple[MergeText, bool]:
    """The text, and whether there is enough to learn an alignment on; none that models write."""
    if not job.plan.data:
        return MergeText(), True
    text, _ = read_text(job.plan, job.recipe, job.inputs, job.device, job.progress)
    labels = text.training_labels(job.plan.fit_on)
    if job.recipe is None and job.plan.alignment == "auto" and job.plan.learns_on_line:
        try:
            text.fit(job.plan.learn.training.tokens(len(labels), job.inputs.context))
        except TooLittleText:
            return text, False
    return text, True


def _blocks(text: MergeText, job: Job) -> Tensor:
    """Blocks to measure on: of the text, else random ones."""
    if text:
        return max(text.report.values(), key=len)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(int(job.inputs.first.config.vocab_size), (8, job.inputs.context), generator=generator)


def _resident() -> float:
    """The bytes of memory that this process has taken at its peak."""
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
