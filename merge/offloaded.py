"""A merge of models larger than memory, with text: made from disk to disk, and measured from there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..align.families import FAMILIES
from ..align.universe import Universe
from ..checkpoint.config import schema_of
from ..checkpoint.inputs import Inputs
from ..checkpoint.lazy_state import LazyState
from ..checkpoint.loading import Checkpoint, load
from ..checkpoint.serialization import save_small_files, save_weights
from ..checkpoint.working_folders import WorkingFolder
from ..eval.loss import ensemble_losses, offloaded_token_losses, per_block
from ..eval.progress import Progress
from .measured import Measured
from .path import blend
from .recipes.recipe import Recipe


class Scratch:
    """A temporary directory that a merge lies in until it is saved; a killed run's is removed by the next run."""

    def __init__(self) -> None:
        self._folder = WorkingFolder(Path(tempfile.gettempdir(), "isthmus-merge-"))

    def put(self, name: str, state: Mapping[str, Tensor], facts: Mapping[str, Any], dtype: torch.dtype) -> Path:
        """Write a model without its tokenizer, and say where it is."""
        place = self._folder.path / name
        place.mkdir()
        save_weights(place, schema_of(facts, name, FAMILIES).shapes, state, dtype, maker=f"the {name}")
        save_small_files(place, facts, {}, dtype)
        return place


def measured_from_disk(
    recipe: Recipe,
    inputs: Inputs,
    aligned: Universe,
    state: Mapping[str, Tensor],
    parts: Mapping[str, Tensor],
    memory: int,
    dtype: torch.dtype,
    progress: Progress,
) -> tuple[Measured, Mapping[str, Tensor], Scratch]:
    """All models, their plain average, that of the aligned ones, their ensemble and the merge on the report text, with
    `memory` bytes of weights.

    The merge is written once and measured as it will be saved; its state on disk comes back, with the folder in which
    it lies.
    """
    base, ends = recipe.operator.needs_base, inputs.members[recipe.operator.needs_base :]
    facts, scratch = inputs.members[0].facts, Scratch()
    count, placed = sum(map(len, parts.values())), list[Path]()

    def losses(name: str, place: Path) -> dict[str, Tensor]:
        progress.stage(f"measuring {name}", count)
        advance: Callable[[int], None] = progress.advance
        return offloaded_token_losses(place, parts, memory, on_blocks=advance)

    def model_losses(model: Checkpoint, name: str | None = None) -> dict[str, Tensor]:
        place = model.directory
        if not isinstance(model.state, LazyState):  # not what is in its files: adapted, or with another head
            place = scratch.put(f"model-{len(placed)}", model.state, model.facts, torch.float32)
            placed.append(place)
        losses_of_model = losses(name or model.name, place)
        model.require_unchanged()
        return losses_of_model

    progress.stage(f"merging ({recipe.operator.name})")
    aligned_facts = aligned.facts(facts)
    merged = scratch.put("merge", state, aligned_facts, dtype)
    even = [1 / len(ends)] * len(ends)
    average = scratch.put("average", blend([end.state for end in ends], even), facts, dtype)
    members = [model_losses(end) for end in ends]
    naive = together = per_block(losses("the plain average", average))
    if aligned.alignment.method != "none":
        moved = aligned.states[len(inputs.members) - len(ends) :]
        place = scratch.put("aligned", blend(moved, even), aligned_facts, dtype)
        together = per_block(losses("the average of the aligned models", place))
    whole = Measured(
        tuple(per_block(member) for member in members),
        tuple(recipe.plain_weights() or even),
        naive,
        together,
        per_block(losses("the merge", merged)),
        ensemble_losses(members),
        per_block(model_losses(inputs.members[0], "the base")) if base else None,
    )
    return whole, load(merged, families=FAMILIES).state, scratch
