"""Merges, with the fields of their plans as keywords."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isthmus.eval.progress import Progress
from isthmus.merge.pipeline import merge_models
from isthmus.merge.plans import MergePlan, SpectrumPlan
from isthmus.merge.recipes.recipe import Recipe
from isthmus.merge.result import Merge

SPECTRUM = {"measure_spectrum": "measure", "restore": "restore", "max_excess": "max_excess", "same_kind": "same_kind"}


def plan_of(**fields: Any) -> MergePlan:
    """A plan; the fields of its spectrum's plan stand beside the others."""
    spectrum = {SPECTRUM[name]: fields.pop(name) for name in SPECTRUM.keys() & fields.keys()}
    return MergePlan(spectrum=SpectrumPlan(**spectrum), **fields)


def merge(*models: Any, beside: Path | None = None, progress: Progress | None = None, **fields: Any) -> Merge:
    """Two models on a path, or more by their average."""
    return merge_models(models, plan_of(**fields), beside=beside, progress=progress)


def combine(recipe: Recipe | Sequence[Any], *, progress: Progress | None = None, **fields: Any) -> Merge:
    """What a recipe says."""
    return merge_models(recipe, plan_of(**fields), progress=progress)
