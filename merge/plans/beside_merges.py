"""What can be asked of commands that do not merge: aligning, planes, ensembles, explanations, adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...align.methods import LOOKING
from ..common_options import (
    context_option,
    data_option,
    device_option,
    seed_option,
    task_path_option,
    tasks_option,
    tokens_option,
)
from ..options import ALIGNMENT, MEMBERS, RUNNING, TEXT, option
from .merging import Dtype
from .refusals import refuse, require_number
from .training import LearnPlan


@dataclass(frozen=True)
class AlignPlan:
    """How B is moved next to A, and saved; ``activations``, ``combined`` and ``learned`` look at text, `data`.

    With `stream`, for models larger than memory, layers are read when it is their turn (``permutation`` and
    ``orthogonal``). `dtype` None is B's own.
    """

    method: Literal["permutation", "orthogonal", "activations", "combined", "learned"] = option(
        "orthogonal",
        "permutation keeps tied embeddings; orthogonal also rotates; activations, combined and learned look at "
        "--data, too.",
        ALIGNMENT,
    )
    data: Sequence[str] = data_option()
    learn: LearnPlan = field(default_factory=LearnPlan)
    context: int = context_option()
    stream: bool = option(False, "For models larger than memory: read layers when it is their turn.", RUNNING)
    dtype: Dtype | None = option(None, "What to save in; auto keeps B's.", RUNNING, unset="auto")
    device: str = device_option()
    seed: int = seed_option()

    @property
    def needs_text(self) -> bool:
        """Whether the method looks at text."""
        return self.method == "learned" or self.method in LOOKING


@dataclass(frozen=True)
class PlanePlan:
    """The loss on the plane through three models, B and C aligned to A: `tokens` of every text at `resolution`²
    points.
    """

    data: Sequence[str] = data_option()
    align: Literal["none", "permutation", "orthogonal"] = option(
        "orthogonal", "How B and C are aligned to A.", ALIGNMENT
    )
    tokens: int = option(2048, "Tokens of each text to measure on.", TEXT, minimum=1)
    context: int = context_option()
    resolution: int = option(13, "Points along each side.", minimum=2)
    device: str = device_option()
    seed: int = seed_option()


@dataclass(frozen=True)
class EnsemblePlan:
    """Members of an ensemble beside their soup and their best weighted average, on the report text.

    `path` is the directory of a path between the first two models, whose points `at` are members, too. `tasks`, of the
    harness's own or of `task_path`, are run on all of them.
    """

    data: Sequence[str] = data_option()
    path: Path | None = option(None, "A path between the first two, as `isthmus path` wrote it.", MEMBERS)
    at: Sequence[float] = option((), "A point of the path that is a member, too. Repeatable.", MEMBERS)
    average: Literal["probabilities", "logits"] = option(
        "probabilities", "What is averaged; logits are the geometric mean.", MEMBERS
    )
    align: Literal["auto", "none", "permutation", "orthogonal", "activations", "combined"] = option(
        "auto", "How the models are aligned for their soup and their merge.", ALIGNMENT
    )
    tokens: int = tokens_option()
    context: int = context_option()
    device: str = device_option()
    seed: int = seed_option()
    tasks: Sequence[str] = tasks_option()
    task_path: Sequence[str] = task_path_option()


@dataclass(frozen=True)
class ExplainPlan:
    """Why a merge is what it is: with `data`, which layers and parts cost loss when they alone are a parent's, selected
    on `tokens` of every text and reported on as many.
    """

    data: Sequence[str] = data_option()
    tokens: int = tokens_option()
    context: int = context_option()
    device: str = device_option()
    seed: int = seed_option()


@dataclass(frozen=True)
class ExtractPlan:
    """A fine-tune as an adapter of its base: of one `rank`, or of the ranks that keep a share `energy` of the squared
    norm of every matrix's difference. `data`, `tokens` and `context` are as for a merge: what the adapter loses.
    """

    rank: int | None = option(None, "One rank for all matrices.", minimum=1)
    energy: float = option(
        0.99,
        "Share of the squared norm of every matrix's difference to keep, by the lowest rank that does.",
        minimum=0.0,
    )
    data: Sequence[str] = data_option()
    tokens: int = option(8192, "Tokens of each text to measure on.", TEXT, minimum=1)
    context: int = context_option()
    device: str = device_option()
    seed: int = seed_option()

    def __post_init__(self) -> None:
        require_number("--energy", self.energy)
        refuse(
            {
                f"--energy is a share, above 0 and at most 1; got {self.energy:g}": not 0 < self.energy <= 1,
                f"--rank is 1 or more; got {self.rank}": self.rank is not None and self.rank < 1,
            }
        )
