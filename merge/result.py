"""A merged model, and what it leaves on disk: the model, isthmus.json, README.md and report.html, all or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..align.alignment import Alignment
from ..align.families import FAMILIES
from ..checkpoint.adapters.extracted import ExtractedAdapter
from ..checkpoint.card import FIGURE, render_card
from ..checkpoint.config import build_config, schema_of
from ..checkpoint.loading import Checkpoint
from ..checkpoint.manifest import REPORT, sealed
from ..checkpoint.naming import Naming
from ..checkpoint.path_conflicts import Place
from ..checkpoint.redaction import redacted
from ..checkpoint.saving import atomic_directory, write_json
from ..checkpoint.serialization import save_small_files, save_weights
from ..checkpoint.source import CARD
from ..checkpoint.trial_loading import preloaded_transformers, require_opens
from ..checkpoint.untrusted_text import shortened
from ..eval.figures import loss_figure, png
from ..eval.report import render_report
from ..eval.samples import Sample
from ..eval.sentences import sentences
from ..eval.spectrum import Spectrum
from ..eval.summary import loss_table
from ..eval.text_hashes import TextHashes
from .differences import explanation_record
from .observed import Observed
from .path import WeightPath
from .saved_adapter import save_adapter
from .saved_path import write_path
from .training.training_state import TrainingState
from .verify import Shown, require_saved, require_shown

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from .offloaded import Scratch

LONGEST = 20_000  # characters of any text in isthmus.json


@dataclass(frozen=True)
class Merge:
    """A merged model, not yet saved: `state` (float32, computed when looked up), and what was found out.

    `path` is the path that `state` is a point of, with the `alignment` of B to A; None for what an operator made.
    `facts` is what config.json will say, `files` are the small files to carry over, by name. `report` is what goes into
    isthmus.json; `spectra` and `samples` are for report.html. `seen` is the text that the path was trained on,
    `training_state` where its training is kept until the result is saved, `scratch` the folder in which `state` lies,
    where it was never in memory. `inputs` is what was read for it, which no output may replace. `shown` are the losses
    in the report, which the files are held against before they are published; `maker` says in errors what made the
    weights; `base` is what the endpoints were trained from, whose `files` go when it does; `in_memory` says that
    `state` is more than a view of files. A merge that is saved as an `adapter` is what that makes of the model `under`
    it. `naming` says what tensors are called in the files, where that is not as in the files of the first endpoint.
    `observed` has what the report says of a `state` on disk when that is written.
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
    seen: TextHashes = field(default_factory=TextHashes)
    training_state: TrainingState | None = None
    scratch: Scratch | None = None
    inputs: tuple[Place, ...] = ()
    shown: Shown | None = None
    maker: str = "the merge"
    base: Checkpoint | None = None
    in_memory: bool = False
    adapter: ExtractedAdapter | None = None
    under: Checkpoint | None = None
    naming: Naming | None = None
    observed: Observed | None = None

    @cached_property
    def config(self) -> PretrainedConfig:
        """The configuration of the merged model."""
        return build_config(self.facts, "merge")

    def save(self, directory: str | Path, *, overwrite: bool = False, repo_id: str | None = None) -> dict[str, Any]:
        """Write the model, the report and the model card: whole, or not at all. Returns the report as it was written.

        `repo_id` is where on the Hub it will be pushed to, for the card to say so.

        Raises BadInput for an output that exists, IsthmusError when the disk does not take it.
        """
        target = Path(directory)
        report = redacted(shortened(self.report, LONGEST))
        name = repo_id.rpartition("/")[2] if repo_id else target.absolute().name
        with atomic_directory(target, overwrite=overwrite, inputs=self.inputs) as folder:
            digests = self._save_weights(folder, target.name)
            if self.observed is not None and report["explanation"] is None and self.observed.is_complete:
                report["explanation"] = explanation_record(self.observed.differences(), report)
            card = render_card(report, name, loss_table(report), sentences(report), repo_id=repo_id)
            (folder / CARD).write_text(card, encoding="utf-8")
            if report["profile"]:
                (folder / FIGURE).write_bytes(png(loss_figure(report)))
            page = render_report(report, self.spectra, self.samples)
            (folder / "report.html").write_text(page, encoding="utf-8")
            if self.adapter is None:  # what peft makes of an adapter was compared as it was written
                require_opens(folder, target.name, FAMILIES)
                if self.shown is not None:
                    require_shown(folder, self.shown, target.name)
                elif self.in_memory:
                    require_saved(folder, self.state, self.config, self.dtype, target.name)
            report = sealed(report, folder, digests)
            write_json(folder / REPORT, report)
        self._forget_training()
        return report

    def _save_weights(self, folder: Path, name: str) -> dict[str, str]:
        """Write the model, or the adapter, with its small files; the digests of files that were hashed on the way."""
        if self.adapter is not None:
            assert self.under is not None, "an adapter has a base"
            save_adapter(self.adapter, folder, self.under, self.files)
            return {}
        shapes = schema_of(self.facts, name, FAMILIES).shapes
        naming = self.naming or self.endpoints[0].naming
        shapes, state = naming.as_stored(shapes, self.state)
        with preloaded_transformers(self.facts, FAMILIES, files=self.files):
            digests = save_weights(folder, shapes, state, self.dtype, maker=self.maker)
            save_small_files(folder, self.facts, self.files, self.dtype)
        return digests

    def save_path(self, directory: str | Path, *, overwrite: bool = False) -> None:
        """Write the path in place of the model, with its report: whole, or not at all. `merge` takes it as `path`.

        Raises as `save` does.
        """
        assert self.path is not None, "only what has a path is saved as one"
        assert self.alignment is not None
        report = path_report(redacted(shortened(self.report, LONGEST)))
        training = {key: value for key, value in report["path"].items() if key != "history"}
        with atomic_directory(Path(directory), overwrite=overwrite, inputs=self.inputs) as folder:
            write_path(folder, self.path, self.alignment, self.endpoints, training, self.seen)
            page = render_report(report, self.spectra, self.samples)
            (folder / "report.html").write_text(page, encoding="utf-8")
            write_json(folder / REPORT, sealed(report, folder))
        self._forget_training()

    def _forget_training(self) -> None:
        if self.training_state is not None:
            self.training_state.remove()


def path_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report of a merge as that of the path that it was found on."""
    command = report["reproduce"].replace("isthmus merge", "isthmus path", 1).replace(" -o merged", " -o path", 1)
    return {**report, "command": "path", "reproduce": command, "explanation": None}
