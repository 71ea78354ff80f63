"""The checkpoints of a training run, named by a pattern: run/checkpoint-*."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .errors import BadInput
from .reference import require_path
from .untrusted_text import plain

_WILD = re.compile(r"[*?\[]")


def is_pattern(model: str) -> bool:
    """Whether the name of a model is a pattern of directories, and no directory itself."""
    return bool(_WILD.search(model)) and not require_path(model, "the model").exists()


def expanded(models: Sequence[str]) -> list[str]:
    """The models, with the directories that match in place of every pattern, by the numbers in their names.

    Raises BadInput for a pattern that matches none.
    """
    names: list[str] = []
    for model in models:
        if is_pattern(model):
            names += [name for name in _matches(model) if name not in names and name not in models]
        else:
            names.append(model)
    return names


def _matches(model: str) -> list[str]:
    """The directories that match a pattern; of ``base+pattern``, the base with every one of them."""
    base, plus, pattern = model.rpartition("+")
    path = require_path(pattern, "the pattern")
    top = Path(path.anchor)
    try:
        matches = [str(place) for place in top.glob(str(path.relative_to(top))) if place.is_dir()]
    except ValueError:
        matches = []
    if not matches:
        raise BadInput(f"no directory matches '{plain(model, 100)}': check the pattern")
    return [f"{base}{plus}{name}" for name in sorted(matches, key=by_number)]


def last(models: Sequence[str], count: int) -> list[str]:
    """The last checkpoints of a run by the numbers in their names. Raises BadInput where there are fewer."""
    if count > len(models):
        raise BadInput(f"--last {count} of {len(models)} models: there are fewer")
    return sorted(models, key=by_number)[-count:]


def by_number(name: str) -> list[tuple[int, str]]:
    """A key that sorts names by the numbers in them: checkpoint-900 before checkpoint-1000."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
