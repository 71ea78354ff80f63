"""The command line that makes a merge again: Hub ids with the revisions that were read, what differs from the defaults.

Nothing of the machine's is in it: a local model or text goes by its last name.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ..checkpoint.group import Group
from ..checkpoint.loading import Checkpoint
from ..checkpoint.reference import parse_reference
from ..checkpoint.untrusted_text import plain
from ..eval.text import corpus
from .curve import CurvePlan
from .learn import LearnPlan
from .recipe import Recipe, Settings

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
LONGEST = 1000  # characters of one word of a command
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
    learns = path == "linear" and arguments["data"] and arguments["align"] in ("auto", "learned")
    words += _learning(arguments["learn"]) if learns else []
    if isinstance(path, CurvePlan):
        words += ["--path", path.kind, *_curve(path)]
    elif path != "linear":
        words += ["--path", f"./{Path(path).resolve().name}"]
    idle = {"objective", "interior"} if arguments["t"] is not None else set()
    idle |= set() if arguments["data"] else {"tokens"}
    idle |= set() if learns or isinstance(path, CurvePlan) else {"fit_on"}
    for name, option in OPTIONS.items():
        if name in idle:
            continue
        value = arguments[name]
        if value != defaults[name]:
            for one in value if isinstance(value, (list, tuple)) else [value]:
                words += [option, _written(one)]
    words += [flag for (name, value), flag in FLAGS.items() if arguments[name] is value]
    for option, optimizer in zip(("--optimizer-a", "--optimizer-b"), arguments["optimizers"], strict=True):
        words += [option, optimizer] if optimizer else []
    return _shell(words)


def combine_command(recipe: Recipe, group: Group, arguments: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """The command of a call of `combine`; what options cannot say of its recipe is said by the recipe, as YAML."""
    names = {given: public_reference(member) for given, member in zip(recipe.ingredients, group.members, strict=True)}
    options = _as_options(recipe if arguments["soup"] == "uniform" else _unweighted(recipe), names)
    words = ["isthmus", "merge", *(options if options is not None else ["recipe.yml"]), "-o", "merged"]
    for spec in arguments["data"]:
        words += ["--data", public_text(spec)]
    if arguments["align"] != "none" or (options is not None and arguments["data"]):
        words += ["--align", arguments["align"]]
    if arguments["soup"] != "uniform":
        words += ["--search"] if arguments["soup"] == "search" else ["--soup", arguments["soup"]]
    for name in ("max_excess", "same_kind", *(["tokens"] if arguments["data"] else []), "dtype", "seed"):
        if arguments[name] != defaults[name]:
            words += [OPTIONS[name], _written(arguments[name])]
    words += ["--max-memory", arguments["max_memory"]] if arguments["max_memory"] else []
    words += [flag for (name, value), flag in FLAGS.items() if name == "measure_spectrum" and arguments[name] is value]
    command = _shell(words)
    return command if options is not None else f"cat > recipe.yml <<'END'\n{_as_yaml(recipe, names)}END\n{command}"


def _shell(words: Sequence[str]) -> str:
    """A command for a shell, on one line whatever a directory is called."""
    return shlex.join(plain(word, LONGEST) for word in words)


def _unweighted(recipe: Recipe) -> Recipe:
    """The recipe as options say it where the weights are chosen."""

    def rest(settings: Settings) -> Settings:
        return {key: setting for key, setting in settings.items() if key != "weight"}

    segments = tuple(replace(one, shared=rest(one.shared), each=tuple(map(rest, one.each))) for one in recipe.segments)
    return replace(recipe, shared=rest(recipe.shared), segments=segments)


def _as_options(recipe: Recipe, names: Mapping[str, str]) -> list[str] | None:
    """Models and options that make the recipe, None where there are none."""
    each = recipe.segments[0].each or ({},) * len(recipe.models)
    everywhere = {key for own in each for key in own}
    settings = [*recipe.shared.values(), *(setting for own in each for setting in own.values())]
    plain = all(len(setting.cases) == 1 and setting.cases[0][0] is None for setting in settings)
    whole = len(recipe.segments) == 1 and recipe.segments[0].stop is None and not recipe.segments[0].shared
    known = {"weight": "--weight", "density": "--density", "lambda": "--lambda", "t": "--t"}
    if not (plain and whole and {*recipe.shared, *everywhere} <= known.keys()) or recipe.dtype or recipe.tokenizer:
        return None
    if any(key not in own for key in everywhere for own in each):
        return None
    words = [*(names[model] for model in recipe.models), "--method", recipe.operator.name]
    words += ["--base", names[str(recipe.base)]] if recipe.base else []
    for key, option in known.items():
        shared = [recipe.shared[key]] if key in recipe.shared else []
        for setting in [own[key] for own in each] if key in everywhere else shared:
            words += [option, ",".join(map(_written, setting.cases[0][1]))]
    return words


def _as_yaml(recipe: Recipe, names: Mapping[str, str]) -> str:
    """The recipe as mergekit writes one."""
    segments = []
    for segment in recipe.segments:
        each = segment.each or ({},) * len(recipe.models)
        inputs: list[dict[str, Any]] = [
            {"model": names[model], **_parameters(own)} for model, own in zip(recipe.models, each, strict=True)
        ]
        layers = {} if segment.stop is None else {"layer_range": [segment.start, segment.stop]}
        segments.append({"sources": [{**one, **layers} for one in inputs], **_parameters(segment.shared)})
    whole = recipe.segments[0].stop is None
    base = recipe.base or (recipe.models[0] if recipe.operator.name == "slerp" else None)
    content = {
        "merge_method": recipe.operator.name,
        **({"base_model": names[base]} if base else {}),
        **({"models": segments[0]["sources"]} if whole else {"slices": segments}),
        **_parameters(recipe.shared),
        **({"dtype": recipe.dtype} if recipe.dtype else {}),
        **({"tokenizer_source": names[recipe.tokenizer]} if recipe.tokenizer else {}),
    }
    return str(yaml.safe_dump(content, sort_keys=False))


def _parameters(settings: Settings) -> dict[str, Any]:
    return {"parameters": {key: setting.written() for key, setting in settings.items()}} if settings else {}


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
