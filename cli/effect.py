"""Options that were given and change nothing are bad usage: each is one sentence."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from ..checkpoint.errors import BadInput
from .options import CURVES

OF_BENDS = (
    "bends",
    "steps",
    "bend_optimizer",
    "bend_lr",
    "bend_weight_decay",
    "bend_start",
    "batch",
    "accumulate",
)
OF_LEARNING = ("align_steps", "align_batch")
OF_TRAINING = ("mixed_precision", "fit_on")
OF_THE_PATH = ("path", "restore_spectrum", "objective", "interior", "optimizer_a", "optimizer_b", "restart")
OF_OPERATORS = ("base", "weight", "density", "scale", "search", "max_memory", "soup")


@dataclass(frozen=True)
class Idle:
    """Options, by the names of their parameters, that change nothing `when` something holds, and why."""

    options: Collection[str]
    when: bool
    why: str


def require_effect(context: typer.Context, rules: Sequence[Idle]) -> None:
    """Raise BadInput for the first option that was given on the command line and changes nothing."""
    given = explicit(context)
    for rule in rules:
        for name in rule.options if rule.when else ():
            if name in given:
                raise BadInput(f"{given[name]} {rule.why}")


def explicit(context: typer.Context) -> dict[str, str]:
    """The options that were given, by the names of their parameters, as they are written."""
    found = {}
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is not None and source.name == "COMMANDLINE" and parameter.param_type_name == "option":
            off = context.params.get(str(parameter.name)) is False and parameter.secondary_opts
            found[str(parameter.name)] = (parameter.secondary_opts if off else parameter.opts)[0]
    return found


def idle_in_merge(
    *,
    by_operator: bool,
    data: bool,
    align: str | None,
    path: str,
    t: str,
    spectrum: bool | None,
    require_spectrum: bool,
    search: bool,
    soup: str,
) -> list[Idle]:
    """What changes nothing in a merge that is asked for so."""
    curve = path in CURVES
    learns = path == "linear" and data and align in (None, "auto", "learned")
    plain = not data and path == "linear" and align in ("none", *((None,) if by_operator else ()))
    two_models = "is for two models and the path between them: leave it out, or leave --method out"
    return [
        Idle(OF_OPERATORS, not by_operator, "is one of the options that are for a --method: name one, or leave it out"),
        Idle((*OF_THE_PATH, *OF_BENDS, *OF_LEARNING, *OF_TRAINING), by_operator, two_models),
        Idle(("t",), by_operator and t == "auto", f"auto {two_models}"),
        Idle(OF_BENDS, not curve, f"is for bends: add --path {' or '.join(CURVES)}, or leave it out"),
        Idle(
            OF_LEARNING,
            not learns,
            "is for an alignment that is learned for a straight line: that takes --data, and --align auto or learned",
        ),
        Idle(
            OF_TRAINING, not (curve or learns), "is for training, and neither bends nor an alignment are trained here"
        ),
        Idle(("objective", "interior"), t != "auto", "is for the choice of t: leave out it, or --t"),
        Idle(
            ("tokens",),
            not data and (path == "linear" or Path(path).is_dir()),
            "counts tokens of text: add --data, or leave it out",
        ),
        Idle(("spectrum",), require_spectrum and spectrum is False, "contradicts --require-spectrum: leave one out"),
        Idle(
            ("max_excess", "same_kind"),
            not require_spectrum and (spectrum is False or (spectrum is None and plain)),
            "is for the verdict on a spectrum, and none is measured: add --spectrum, or leave it out",
        ),
        Idle(("soup",), search, "contradicts --search: leave one out"),
        Idle(("weight",), search, "contradicts --search, which chooses weights: leave one out"),
        Idle(("weight",), soup != "uniform", f"contradicts --soup {soup}, which chooses weights: leave one out"),
    ]


def idle_in_align(method: str, *, looks: bool) -> list[Idle]:
    """What changes nothing in an alignment by a method that `looks` at text or does not."""
    other = "take activations, combined or learned, or leave it out"
    return [
        Idle(("data",), not looks, f"is text, at which --method {method} does not look: {other}"),
        Idle((*OF_LEARNING, "mixed_precision"), method != "learned", "is for --method learned: leave it out"),
    ]


def idle_in_ensemble(models: int, *, saves: bool) -> list[Idle]:
    """What changes nothing in an ensemble."""
    return [
        Idle(("align",), models < 2, "is for the soup of two models or more: leave it out"),
        Idle(("overwrite",), not saves, "is for an output: add -o, or leave it out"),
    ]
