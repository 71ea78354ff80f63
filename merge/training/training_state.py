"""A training run on disk while it goes on: resumed where it was, and only by the same run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from ...align.alignment import Alignment
from ...checkpoint.errors import BadInput, CorruptCheckpoint
from ...checkpoint.path_conflicts import output_path
from ...checkpoint.saving import STAGING, replace_json
from ...checkpoint.serialization import digest
from ...checkpoint.size_limits import DOCUMENT, read_bytes, require_regular_file
from ...checkpoint.strict_json import parse_object
from ...checkpoint.working_folders import LOCK, FolderLock, hidden_sibling, remove_leftovers
from ...eval.processes import is_main, wait_for_everyone
from ..saved_path import endpoint_digests

if TYPE_CHECKING:
    from ...align.symmetry import State
    from ...align.universe import Universe
    from ...checkpoint.loading import Checkpoint
    from .placement import Placement

Entry = tuple[int, float | None, float]
ALIGNMENT = "alignment-{}.safetensors"


class TrainingState:
    """The folder of one run. `identity` says which run it is: endpoints, text and settings, JSON-ready.

    Every state is written beside the last one, and counts from the moment in which `latest.json` names it.
    """

    def __init__(self, folder: Path, identity: object):
        self.folder, self.identity = folder, json.loads(json.dumps(identity))

    @classmethod
    def beside(cls, output: Path, identity: object) -> Self:
        """The run whose result will be `output`: a hidden folder next to it."""
        return cls(hidden_sibling(output_path(output), ".isthmus-training"), identity)

    @classmethod
    def of_run(
        cls, output: Path | None, models: Sequence[Checkpoint], start: Universe, plan: object, fit: Mapping[str, Tensor]
    ) -> TrainingState | None:
        """The run known by its endpoints, their alignment, its text and its settings; None without an output."""
        if output is None:
            return None
        identity = {
            "endpoints": endpoint_digests(models),
            "align": start.alignment.method,
            "plan": repr(plan),
            "text": digest(fit),
        }
        return cls.beside(output, identity)

    def exists(self) -> bool:
        """Whether there is something to resume.

        Raises BadInput when what is there belongs to another run.
        """
        latest = self.folder / "latest.json"
        if not latest.exists():
            return False
        try:
            identity = self._latest()["identity"]
        except (OSError, KeyError, CorruptCheckpoint):
            raise self.damaged() from None
        if identity != self.identity:
            raise BadInput(
                f"an unfinished run with other models, text or settings is kept for this output (in "
                f"'{self.folder.name}'): give what it was started with to go on, or --restart to drop it"
            )
        return True

    def _latest(self) -> dict[str, Any]:
        content = read_bytes(self.folder / "latest.json", DOCUMENT, "'latest.json'")
        return parse_object(content, "'latest.json'")

    def save(
        self,
        placed: Placement[Any],
        step: int,
        history: Sequence[Entry],
        best: Sequence[State],
        alignments: Sequence[Alignment] = (),
    ) -> None:
        """Keep the run after `step` steps, the best states so far and their alignments; every process calls this."""
        target = self.folder / f"step-{step}"
        placed.save(target, best)
        if is_main():
            for number, alignment in enumerate(alignments):
                alignment.save(target / ALIGNMENT.format(number))
            latest = {"identity": self.identity, "step": step, "history": [list(entry) for entry in history]}
            latest["weights"] = placed.kept
            replace_json(self.folder / "latest.json", latest)
            for old in self.folder.glob("step-*"):
                if old != target:
                    shutil.rmtree(old, ignore_errors=True)
        wait_for_everyone()

    def load(
        self, placed: Placement[Any]
    ) -> tuple[int, list[Entry], tuple[dict[str, Tensor], ...], tuple[Alignment, ...]]:
        """Put the run back; returns the steps done, the history, and the best states so far with their alignments."""
        try:
            latest = self._latest()
            weights, done = latest.get("weights", "whole"), latest["step"]
            if weights != placed.kept:
                raise _of_others(weights)
            target = self.folder / f"step-{done}"
            if type(done) is not int or not target.is_dir():
                raise ValueError("no step of this run")
            history = [
                (int(step), None if loss is None else float(loss), float(height))
                for step, loss, height in latest["history"]
            ]
            for file in target.iterdir():
                require_regular_file(file, target.name)
            kept = len(list(target.glob(ALIGNMENT.format("*"))))
            alignments = tuple(Alignment.load(target / ALIGNMENT.format(number)) for number in range(kept))
            best = placed.load(target)
        except (MemoryError, torch.OutOfMemoryError, BadInput):
            raise
        except Exception:  # torch and accelerate raise many kinds for a file that is damaged or of another run
            raise self.damaged() from None
        return done, history, best, alignments

    def damaged(self) -> BadInput:
        """The error for a run that cannot be gone on with."""
        return BadInput(
            f"the unfinished run that is kept for this output (in '{self.folder.name}') is damaged and cannot go on: "
            "add --restart to drop it"
        )

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """The right to train into the folder, which is gone afterwards where nothing was saved.

        Raises BadInput while another process has it.
        """
        refusal = f"another process is training for this output (in '{self.folder.name}'): wait for it"
        with FolderLock(self.folder, refusal):
            try:
                yield
            finally:
                if not (self.folder / "latest.json").exists():
                    self._remove()

    def remove(self) -> None:
        """The run is over: remove what `save` wrote, and nothing else."""
        if self.folder.is_symlink() or not self.folder.is_dir():
            return
        with self.claimed():
            (self.folder / "latest.json").unlink(missing_ok=True)

    def _remove(self) -> None:
        for step in self.folder.glob("step-*"):
            shutil.rmtree(step, ignore_errors=True)
        for name in ("latest.json.new", LOCK):
            (self.folder / name).unlink(missing_ok=True)
        remove_leftovers(hidden_sibling(self.folder / "latest.json", STAGING))
        with suppress(OSError):  # somebody put something else there
            self.folder.rmdir()


def _of_others(weights: str) -> BadInput:
    how = "with all weights in each process: go on without FSDP"
    if weights == "shared":
        how = "by processes that share all weights (FSDP): go on with two or more that do"
    return BadInput(f"the unfinished run that is kept for this output was trained {how}, or add --restart to drop it")
