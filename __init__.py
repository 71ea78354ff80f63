"""isthmus: merge transformer checkpoints along low-loss paths.

    import isthmus

    result = isthmus.merge_models(["./a", "./b"], isthmus.MergePlan(data=["stdlib:docs"]))
    result.save("./merged")
    isthmus.push("./merged", "user/merged")

Everything here is imported when it is first used; importing isthmus itself loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

_HOMES = {
    "Checkpoint": "checkpoint.loading",
    "load": "checkpoint.loading",
    "check": "checkpoint.check",
    "CheckResult": "checkpoint.check",
    "IsthmusError": "checkpoint.errors",
    "BadInput": "checkpoint.errors",
    "ModelNotFound": "checkpoint.errors",
    "CorruptCheckpoint": "checkpoint.errors",
    "IncompatibleModels": "checkpoint.errors",
    "UnsupportedFamily": "checkpoint.errors",
    "AlignmentError": "checkpoint.errors",
    "GateRefused": "checkpoint.errors",
    "Alignment": "align.alignment",
    "align_models": "align.pipeline",
    "canonical": "align.canonical",
    "family": "align.families",
    "push": "checkpoint.push",
    "corpus": "eval.corpora",
    "Gates": "merge.plans",
    "Merge": "merge.result",
    "spectrum": "merge.spectra",
    "WeightPath": "merge.path",
    "CurvePlan": "merge.plans",
    "PathTraining": "merge.plans",
    "LearnPlan": "merge.plans",
    "MergePlan": "merge.plans",
    "SpectrumPlan": "merge.plans",
    "AlignPlan": "merge.plans",
    "ComparePlan": "merge.comparing.plan",
    "EnsemblePlan": "merge.plans",
    "ExplainPlan": "merge.plans",
    "ExtractPlan": "merge.plans",
    "PlanePlan": "merge.plans",
    "merge_models": "merge.pipeline",
    "loss_plane": "merge.plane",
    "align_and_save": "merge.aligned_checkpoint",
    "Parameter": "merge.operators.registry",
    "merge_method": "merge.operators.custom",
    "Recipe": "merge.recipes.recipe",
    "recipe": "merge.recipes.recipe",
    "read_recipe": "merge.recipes.mergekit",
    "ensemble": "merge.ensembles",
    "explain": "merge.explain",
    "compare": "merge.comparing.comparison",
    "extract": "merge.extract",
    "load_ensemble": "merge.ensembles",
}

if TYPE_CHECKING:
    from .align.alignment import Alignment
    from .align.canonical import canonical
    from .align.families import family
    from .align.pipeline import align_models
    from .checkpoint.check import CheckResult, check
    from .checkpoint.errors import (
        AlignmentError,
        BadInput,
        CorruptCheckpoint,
        GateRefused,
        IncompatibleModels,
        IsthmusError,
        ModelNotFound,
        UnsupportedFamily,
    )
    from .checkpoint.loading import Checkpoint, load
    from .checkpoint.push import push
    from .eval.corpora import corpus
    from .merge.aligned_checkpoint import align_and_save
    from .merge.comparing.comparison import compare
    from .merge.comparing.plan import ComparePlan
    from .merge.ensembles import ensemble, load_ensemble
    from .merge.explain import explain
    from .merge.extract import extract
    from .merge.operators.custom import merge_method
    from .merge.operators.registry import Parameter
    from .merge.path import WeightPath
    from .merge.pipeline import merge_models
    from .merge.plane import loss_plane
    from .merge.plans import (
        AlignPlan,
        CurvePlan,
        EnsemblePlan,
        ExplainPlan,
        ExtractPlan,
        Gates,
        LearnPlan,
        MergePlan,
        PathTraining,
        PlanePlan,
        SpectrumPlan,
    )
    from .merge.recipes.mergekit import read_recipe
    from .merge.recipes.recipe import Recipe, recipe
    from .merge.result import Merge
    from .merge.spectra import spectrum

__all__ = [
    "AlignPlan",
    "Alignment",
    "AlignmentError",
    "BadInput",
    "CheckResult",
    "Checkpoint",
    "ComparePlan",
    "CorruptCheckpoint",
    "CurvePlan",
    "EnsemblePlan",
    "ExplainPlan",
    "ExtractPlan",
    "GateRefused",
    "Gates",
    "IncompatibleModels",
    "IsthmusError",
    "LearnPlan",
    "Merge",
    "MergePlan",
    "ModelNotFound",
    "Parameter",
    "PathTraining",
    "PlanePlan",
    "Recipe",
    "SpectrumPlan",
    "UnsupportedFamily",
    "WeightPath",
    "align_and_save",
    "align_models",
    "canonical",
    "check",
    "compare",
    "corpus",
    "ensemble",
    "explain",
    "extract",
    "family",
    "load",
    "load_ensemble",
    "loss_plane",
    "merge_method",
    "merge_models",
    "push",
    "read_recipe",
    "recipe",
    "spectrum",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(f"isthmus.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'isthmus' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
