"""What words on the command line say, where a type does not say it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from ...checkpoint.errors import BadInput
from .refusals import refuse
from .training import CURVES, CurvePlan


def read_point(word: str) -> float | None:
    """What `--t` says: a number, or None for auto. Raises BadInput for anything else."""
    if word == "auto":
        return None
    try:
        return float(word)
    except ValueError:
        raise BadInput(f"--t takes auto or a number from 0 to 1; got '{word}'") from None


def read_rank(word: str | None) -> int | Literal["exact"] | None:
    """What `--as-lora` says: a rank, or ``exact``; None where it is not given. Raises BadInput for anything else."""
    if word is None:
        return None
    if word == "exact":
        return "exact"
    if not word.isdecimal() or int(word) < 1:
        raise BadInput(f"--as-lora takes a rank, 1 or more, or exact; got '{word}'")
    return int(word)


def read_path(word: str, curve: Callable[[], CurvePlan]) -> Literal["linear"] | CurvePlan | Path:
    """What `--path` says: the straight line, a curve to be trained, or the directory of one that was.

    Raises BadInput for anything else.
    """
    if word == "linear":
        return "linear"
    if word in CURVES:
        return curve()
    if not Path(word).is_dir():
        raise BadInput(f"--path {word}: give linear, {', '.join(CURVES)}, or a directory that `isthmus path` wrote")
    return Path(word)


def read_gradients(option: str, words: Sequence[str]) -> tuple[tuple[float, ...], ...]:
    """What an option that is given once for all models or once for each says: a number, or several with commas."""
    return tuple(_gradient(option, word) for word in words)


def _gradient(option: str, word: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, word.split(",")))
    except ValueError:
        raise BadInput(f"{option} takes a number, or a gradient of numbers with commas; got '{word}'") from None


def read_parameters(words: Sequence[str]) -> tuple[tuple[str, tuple[float | bool, ...]], ...]:
    """What `--parameter` says: names of parameters, and a value, or a gradient of several with commas, of each."""
    given = [_parameter(word) for word in words]
    names = [name for name, _ in given]
    twice = next((name for name in names if names.count(name) > 1), None)
    refuse({f"--parameter {twice} is given twice: leave one out": twice is not None})
    return tuple(given)


def _parameter(word: str) -> tuple[str, tuple[float | bool, ...]]:
    name, _, values = word.partition("=")
    flags = {"true": True, "false": False}
    try:
        return name, tuple(flags[value] if value in flags else float(value) for value in values.split(","))
    except ValueError:
        raise BadInput(f"--parameter takes name=value, a number, true or false; got '{word}'") from None
