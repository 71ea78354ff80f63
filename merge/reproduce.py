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

from ..align.methods import LOOKING
from ..checkpoint.inputs import Inputs
from ..checkpoint.loading import Checkpoint
from ..checkpoint.opening import open_source
from ..checkpoint.untrusted_text import plain
from ..eval.corpora import corpus
from ..eval.tasks.specs import task_specs
from .idle import idle_in_merge
from .options import unusual
from .plans import Align, CurvePlan, MergePlan, SearchPlan
from .recipes.recipe import Recipe, Segment, Settings, written

LONGEST = 1000  # characters of one word of a command


def public_reference(checkpoint: Checkpoint) -> str:
    """A checkpoint as others can find it: a Hub id with its revision; a directory by its last name."""
    return (checkpoint.source or open_source(checkpoint.place)).permanent_name


def public_text(spec: str) -> str:
    """What `--data` was given, with a file or directory by its last name."""
    source = corpus(spec)
    stdlib = source.origin.startswith("stdlib:")
    usual = source.origin.split(":")[1] if stdlib else Path(source.origin).stem
    return source.origin if source.label == usual else f"{source.label}={source.origin}"


def merge_command(plan: MergePlan, recipe: Recipe | None, inputs: Inputs) -> str:
    """The command, for a shell, that makes a merge again: what differs from the defaults, and no option that is idle.

    What options cannot say of a recipe is said by the recipe, as YAML.
    """
    ends = list(map(public_reference, inputs.whole))
    options: list[str] | None = ends
    names: dict[str, str] = {}
    if recipe is not None:
        names = dict(zip(recipe.given, ends, strict=True))
        options = _as_options(_unweighted(recipe) if plan.chooses_weights else recipe, names)
    words = ["isthmus", "merge", *(options if options is not None else ["recipe.yml"]), "-o", "merged"]
    for spec in plan.data:
        words += ["--data", public_text(spec)]
    for task in task_specs(plan.tasks):
        words += ["--task", task.public]
    for path in plan.task_path:
        words += ["--task-path", f"./{Path(path).resolve().name}"]
    if isinstance(plan.path, CurvePlan):
        words += ["--path", plan.path.kind, *unusual(plan.path, CurvePlan())]
    elif plan.path != "linear":
        words += ["--path", f"./{Path(plan.path).resolve().name}"]
    rules = idle_in_merge(plan, by_operator=recipe is not None)
    idle = {name for applies, options, _ in rules if applies for name in options}
    words += unusual(replace(plan, align=_said_alignment(plan, recipe, options)), MergePlan(), idle)
    if plan.weight_search is not None:
        words += ["--search", plan.weight_search.method, *unusual(plan.weight_search, SearchPlan())]
    elif plan.soup != "uniform":
        words += ["--soup", plan.soup]
    for option, optimizer in zip(("--optimizer-a", "--optimizer-b"), plan.optimizers, strict=True):
        words += [option, optimizer] if optimizer else []
    command = shlex.join(plain(word, LONGEST) for word in words)  # on one line whatever a directory is called
    if recipe is None or options is not None:
        return command
    return f"cat > recipe.yml <<'END'\n{_as_yaml(recipe, names)}END\n{command}"


def chosen_recipe(
    plan: MergePlan, recipe: Recipe, inputs: Inputs, alignment: Align, names: Mapping[str, str] | None = None
) -> tuple[list[str], str]:
    """The recipe with weights that were chosen, as lines of YAML, and the command that merges by it, models by their
    public names or by the `names` that are given.

    Alignment is as it was. The text is in the command where the alignment or the method looks at it.
    """
    if names is None:
        names = dict(zip(recipe.ingredients, map(public_reference, inputs.whole), strict=True))
    words = ["isthmus", "merge", "recipe.yml", "-o", "merged"]
    if alignment in LOOKING or recipe.operator.knows is not None:
        for spec in plan.data:
            words += ["--data", public_text(spec)]
    given = replace(
        plan, soup="uniform", search=None, objective="mean", align=None if alignment == "none" else alignment
    )
    words += unusual(given, MergePlan(), () if "--data" in words else ("--tokens", "--context", "--report-on"))
    return _as_yaml(recipe, names).splitlines(), shlex.join(plain(word, LONGEST) for word in words)


def _said_alignment(plan: MergePlan, recipe: Recipe | None, options: Sequence[str] | None) -> Align | None:
    """The alignment as the command says it; None where it is what the command line takes without."""
    chooses = recipe is None or (options is not None and plan.data and plan.max_memory is None)
    return None if plan.alignment == ("auto" if chooses else "none") else plan.alignment


def _unweighted(recipe: Recipe) -> Recipe:
    """The recipe as options say it where the weights are chosen."""

    def rest(settings: Settings) -> Settings:
        return {key: setting for key, setting in settings.items() if key != "weight"}

    segments = tuple(replace(one, shared=rest(one.shared), each=tuple(map(rest, one.each))) for one in recipe.segments)
    return replace(recipe, shared=rest(recipe.shared), segments=segments)


def _as_options(recipe: Recipe, names: Mapping[str, str]) -> list[str] | None:
    """Models and options that make the recipe, None where there are none."""
    if recipe.is_composed:
        return None
    each = recipe.segments[0].each or ({},) * len(recipe.models)
    everywhere = {key for own in each for key in own}
    settings = [*recipe.shared.values(), *(setting for own in each for setting in own.values())]
    plain = all(len(setting.cases) == 1 and setting.cases[0][0] is None for setting in settings)
    whole = len(recipe.segments) == 1 and recipe.segments[0].stop is None and not recipe.segments[0].shared
    named = {"weight": "--weight", "density": "--density", "lambda": "--lambda", "t": "--t"}
    if not (plain and whole and everywhere <= named.keys()) or recipe.dtype or recipe.vocabulary or recipe.template:
        return None
    if any(key not in own for key in everywhere for own in each):
        return None
    words = [*(names[model] for model in recipe.models), "--method", recipe.operator.name]
    words += ["--base", names[str(recipe.base)]] if recipe.base else []
    for key, option in named.items():
        shared = [recipe.shared[key]] if key in recipe.shared else []
        for setting in [own[key] for own in each] if key in everywhere else shared:
            words += [option, ",".join(map(str, setting.cases[0][1]))]
    for key in (key for key in recipe.shared if key not in named):
        words += ["--parameter", f"{key}={','.join(map(str, recipe.shared[key].cases[0][1])).lower()}"]
    return words


def _as_yaml(recipe: Recipe, names: Mapping[str, str]) -> str:
    """The recipe, and before it those of its stages, models by their public `names`."""
    documents = [{"name": stage.name, **_content(stage.recipe, names)} for stage in recipe.stages]
    documents.append({**_content(recipe, names), **_tokens(recipe, names)})
    return str(yaml.safe_dump_all(documents, sort_keys=False))


def _content(recipe: Recipe, names: Mapping[str, str]) -> dict[str, Any]:
    segments = []
    for segment in recipe.segments:
        models = recipe.models_of(segment)
        each = segment.each or ({},) * len(models)
        own = dict(zip(models, each, strict=True))
        firsts = {origin.model: origin.first for origin in segment.origins} or dict.fromkeys(models, segment.start)
        inputs: list[dict[str, Any]] = [
            {"model": names.get(model, model), **_layers(segment, first), **_parameters(own.get(model, {}))}
            for model, first in firsts.items()
        ]
        segments.append({"sources": inputs, **_parameters(segment.shared)})
    whole = recipe.segments[0].stop is None
    base = recipe.base or (recipe.models[0] if recipe.operator.name == "slerp" else None)
    if recipe.moves and recipe.operator.name == "slerp":
        base = recipe.segments[0].origins[0].model
    return {
        "merge_method": recipe.operator.name,
        **({"base_model": names.get(base, base)} if base else {}),
        **({"models": segments[0]["sources"]} if whole else {"slices": segments}),
        **_parameters(recipe.shared),
        **({"dtype": recipe.dtype} if recipe.dtype else {}),
    }


def _layers(segment: Segment, first: int) -> dict[str, Any]:
    return {} if segment.stop is None else {"layer_range": [first, first + segment.stop - segment.start]}


def _tokens(recipe: Recipe, names: Mapping[str, str]) -> dict[str, Any]:
    """What a recipe says of its tokenizer."""
    template = {"chat_template": recipe.template} if recipe.template else {}
    asked = recipe.vocabulary
    if asked is None:
        return template
    source = names.get(asked.source, asked.source)
    if not asked.tokens and asked.multiple is None:
        return {"tokenizer_source": source, **template}
    tokens: dict[str, Any] = {}
    for one in asked.tokens:
        given: object = names.get(str(one.model), one.model)
        if one.model is None:
            given = {"kind": "zero"}
        elif one.other is not None:
            given = {
                "kind": "model_token",
                "model": given,
                "token_id" if isinstance(one.other, int) else "token": one.other,
            }
        tokens[one.token] = {"source": given, **({"force": True} if one.force else {})}
    multiple = {} if asked.multiple is None else {"pad_to_multiple_of": asked.multiple}
    return {"tokenizer": {"source": source, **({"tokens": tokens} if tokens else {}), **multiple}, **template}


def _parameters(settings: Settings) -> dict[str, Any]:
    return {"parameters": written(settings)} if settings else {}
