"""What options come to, where several together say one thing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..checkpoint.errors import BadInput
from ..eval.processes import is_main
from .options import CURVES, BendOptimizerChoice, CurveChoice, DtypeChoice, StartChoice

if TYPE_CHECKING:
    from ..merge.recipe import Recipe


def path_asked(path: str, bends: int, optimizer: BendOptimizerChoice, start: StartChoice, **training: Any) -> Any:
    """What --path and the options of training come to: linear, a plan, or a directory."""
    if path == "linear":
        return path
    if path in CURVES:
        from ..merge.plans import CurvePlan, PathTraining

        return CurvePlan(cast(CurveChoice, path), bends, optimizer, start, PathTraining(**training))
    if not Path(path).is_dir():
        raise BadInput(f"--path {path}: give linear, {', '.join(CURVES)}, or a directory that `isthmus path` wrote")
    return Path(path)


def drop_training(output: Path) -> None:
    """Forget an interrupted training beside an output directory: --restart."""
    from ..merge.training_state import TrainingState

    if is_main():
        TrainingState.beside(output, None).remove()


def recipe_asked(
    models: Sequence[str],
    method: str | None,
    base: str | None,
    weight: Sequence[str] | None,
    density: Sequence[str] | None,
    scale: float | None,
    t: str,
) -> tuple[Recipe, bool]:
    """What models and options say to do, and whether a file says it."""
    from ..merge.mergekit import is_recipe, read_recipe
    from ..merge.recipe import recipe

    if len(models) == 1 and is_recipe(models[0]):
        given = {"--method": method, "--base": base, "--weight": weight, "--density": density, "--lambda": scale}
        given["--t"] = None if t == "auto" else t
        for option, value in given.items():
            if value is not None:
                raise BadInput(f"the recipe says what {option} would: leave {option} out")
        return read_recipe(models[0]), True
    if len(models) == 1:
        raise BadInput("give two models or more, or a recipe (a .yml file)")
    found = recipe(
        method or "linear",
        models,
        base=base,
        weights=[_gradient("--weight", value) for value in weight or ()],
        densities=[_gradient("--density", value) for value in density or ()],
        scale=scale,
        t=point_asked(t),
    )
    return found, False


def _gradient(option: str, text: str) -> list[float]:
    """One number, or several with commas between them."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"{option} takes a number, or a gradient of numbers with commas; got '{text}'") from None


def point_asked(t: str) -> float | None:
    """What --t says: a number, or None for auto.

    Raises BadInput for anything else.
    """
    if t == "auto":
        return None
    try:
        return float(t)
    except ValueError:
        raise BadInput(f"--t takes auto or a number from 0 to 1; got '{t}'") from None


def dtype_asked(choice: DtypeChoice) -> Any:
    """The torch dtype of --dtype, None for auto."""
    if choice == "auto":
        return None
    import torch

    return getattr(torch, choice)
