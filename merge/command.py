"""The command line that makes a merge again: Hub ids with the revisions that were read, what differs from the defaults.

Nothing of the machine's is in it: a local model or text goes by its last name.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from isthmus.checkpoint.loading import Checkpoint
from isthmus.checkpoint.reference import parse_reference
from isthmus.eval.text import corpus
from isthmus.merge.curve import CurvePlan
from isthmus.merge.learn import LearnPlan

# Arguments of `merge` that decide what comes out of it, by their options on the command line.
OPTIONS = {
    "align": "--align",
    "t": "--t",
    "objective": "--objective",
    "interior": "--interior",
    "fit_on": "--fit-on",
    "max_excess": "--max-excess",
    "same_kind": "--same-kind",
    "tokens": "--tokens",
    "dtype": "--dtype",
    "seed": "--seed",
}
FLAGS = {
    ("restore", True): "--restore-spectrum",
    ("measure_spectrum", True): "--spectrum",
    ("measure_spectrum", False): "--no-spectrum",
}


def public_reference(checkpoint: Checkpoint) -> str:
    """A checkpoint as others can find it: a Hub id with its revision; a directory by its last name."""
    reference = parse_reference(checkpoint.reference)
    if reference.directory is not None:
        return f"./{reference.name}"
    return replace(reference, revision=checkpoint.revision or reference.revision).name


def public_text(spec: str) -> str:
    """What `--data` was given, with a file or directory by its last name."""
    found = corpus(spec)
    named = found.label != Path(found.origin).stem and not found.origin.startswith("stdlib:")
    relabelled = found.origin.startswith("stdlib:") and found.label != found.origin.split(":")[1]
    return f"{found.label}={found.origin}" if named or relabelled else found.origin


def merge_command(ends: Sequence[Checkpoint], arguments: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """The command, for a shell, of a call of `merge` with these `arguments`, of which the `defaults` are left out."""
    words = ["isthmus", "merge", *map(public_reference, ends), "-o", "merged"]
    for spec in arguments["data"]:
        words += ["--data", public_text(spec)]
    path = arguments["path"]
    words += _learning(arguments["learn"]) if path == "linear" else []
    if isinstance(path, CurvePlan):
        words += ["--path", path.kind, *_curve(path)]
    elif path != "linear":
        words += ["--path", f"./{Path(path).resolve().name}"]
    for name, option in OPTIONS.items():
        value = arguments[name]
        if value != defaults[name]:
            for one in value if isinstance(value, (list, tuple)) else [value]:
                words += [option, _written(one)]
    words += [flag for (name, value), flag in FLAGS.items() if arguments[name] is value]
    for option, optimizer in zip(("--optimizer-a", "--optimizer-b"), arguments["optimizers"], strict=True):
        words += [option, optimizer] if optimizer else []
    return shlex.join(words)


def _learning(plan: LearnPlan) -> list[str]:
    usual = LearnPlan()
    return _unusual(
        {
            "--align-steps": (plan.steps, usual.steps),
            "--align-batch": (plan.batch, usual.batch),
            "--mixed-precision": (plan.precision, usual.precision),
        }
    )


def _curve(plan: CurvePlan) -> list[str]:
    usual = CurvePlan()
    asked = {
        "--bends": (plan.bends, usual.bends),
        "--steps": (plan.training.steps, usual.training.steps),
        "--bend-optimizer": (plan.optimizer, usual.optimizer),
        "--bend-lr": (plan.training.lr, usual.training.lr),
        "--bend-weight-decay": (plan.training.weight_decay, usual.training.weight_decay),
        "--bend-start": (plan.start, usual.start),
        "--batch": (plan.training.batch, usual.training.batch),
        "--accumulate": (plan.training.accumulate, usual.training.accumulate),
        "--mixed-precision": (plan.training.precision, usual.training.precision),
    }
    return _unusual(asked)


def _unusual(asked: Mapping[str, tuple[object, object]]) -> list[str]:
    """Options whose value, the first of two, is not the default."""
    return [word for name, (mine, default) in asked.items() if mine != default for word in (name, _written(mine))]


def _written(value: object) -> str:
    return str(value).removeprefix("torch.")
