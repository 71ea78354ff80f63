"""isthmus: merge transformer checkpoints along low-loss paths.

    import isthmus

    result = isthmus.merge("./a", "./b", data=["stdlib:docs"])
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
    "corpus": "eval.text",
    "Gates": "merge.gates",
    "Merge": "merge.result",
    "spectrum": "merge.spectra",
    "WeightPath": "merge.path",
    "CurvePlan": "merge.curve",
    "PathTraining": "merge.training",
    "LearnPlan": "merge.learn",
    "Recipe": "merge.recipe",
    "recipe": "merge.recipe",
    "read_recipe": "merge.mergekit",
    "combine": "merge.many",
    "ensemble": "merge.ensembles",
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
    from .eval.text import corpus
    from .merge import merge
    from .merge.curve import CurvePlan
    from .merge.ensembles import ensemble, load_ensemble
    from .merge.gates import Gates
    from .merge.learn import LearnPlan
    from .merge.many import combine
    from .merge.mergekit import read_recipe
    from .merge.path import WeightPath
    from .merge.recipe import Recipe, recipe
    from .merge.result import Merge
    from .merge.spectra import spectrum
    from .merge.training import PathTraining

__all__ = [
    "Alignment",
    "AlignmentError",
    "BadInput",
    "CheckResult",
    "Checkpoint",
    "CorruptCheckpoint",
    "CurvePlan",
    "GateRefused",
    "Gates",
    "IncompatibleModels",
    "IsthmusError",
    "LearnPlan",
    "Merge",
    "ModelNotFound",
    "PathTraining",
    "Recipe",
    "UnsupportedFamily",
    "WeightPath",
    "align_models",
    "canonical",
    "check",
    "combine",
    "corpus",
    "ensemble",
    "family",
    "load",
    "load_ensemble",
    "merge",
    "push",
    "read_recipe",
    "recipe",
    "spectrum",
]


def __getattr__(name: str) -> object:
    if name == "merge":
        return importlib.import_module(f"isthmus.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"isthmus.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'isthmus' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
