"""A merged model, not yet saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..align.alignment import Alignment
from ..checkpoint.config import build_config
from ..checkpoint.loading import Checkpoint
from ..checkpoint.path_conflicts import Place
from ..eval.samples import Sample
from ..eval.seen import Seen
from ..eval.spectrum import Spectrum
from .path import WeightPath
from .training_state import TrainingState

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from .placed import Scratch
    from .shown import Shown


@dataclass(frozen=True)
class Merge:
    """A merged model, not yet saved: `state` (float32, computed when looked up), and what was found out.

    `path` is the path that `state` is a point of, with the `alignment` of B to A; None for what an operator made.
    `facts` is what config.json will say, `files` are the small files to
    carry over, by name. `report` is what goes into isthmus.json; `spectra` and `samples` are for report.html.
    `seen` is the text that the path was trained on, `training_state` where its training is kept until the result is
    saved, `scratch` the folder in which `state` lies, where it was never in memory. `inputs` is what was read for it,
    which no output may replace. `shown` are the losses in the report, which the files are held against before they are
    published; `maker` says in errors what made the weights; `base` is what the endpoints were trained from, whose
    `files` go when it does.
    """

    endpoints: tuple[Checkpoint, ...]
    alignment: Alignment | None
    path: WeightPath | None
    state: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    dtype: torch.dtype
    files: dict[str, Path]
    report: dict[str, Any]
    spectra: dict[float, Spectrum]
    samples: tuple[Sample, ...]
    seen: Seen = field(default_factory=Seen)
    training_state: TrainingState | None = None
    scratch: Scratch | None = None
    inputs: tuple[Place, ...] = ()
    shown: Shown | None = None
    maker: str = "the merge"
    base: Checkpoint | None = None

    @cached_property
    def config(self) -> PretrainedConfig:
        """The configuration of the merged model."""
        return build_config(self.facts, "merge")

    def save(self, directory: str | Path, *, overwrite: bool = False, repo_id: str | None = None) -> dict[str, Any]:
        """Write the model, the report and the model card: whole, or not at all. Returns the report as it was written.

        `repo_id` is where on the Hub it will be pushed to, for the card to say so.

        Raises BadInput for an output that exists, IsthmusError when the disk does not take it.
        """
        from .output import save

        report = save(self, Path(directory), overwrite=overwrite, repo_id=repo_id)
        self._forget_training()
        return report

    def save_path(self, directory: str | Path, *, overwrite: bool = False) -> None:
        """Write the path in place of the model, with its report: whole, or not at all. `merge` takes it as `path`.

        Raises as `save` does.
        """
        from .output import save_path

        save_path(self, Path(directory), overwrite=overwrite)
        self._forget_training()

    def _forget_training(self) -> None:
        if self.training_state is not None:
            self.training_state.remove()
