"""One merge: what is asked of it, and the models that were checked and opened for it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..align.families import FAMILIES, family
from ..align.methods import KEEP_FORM
from ..checkpoint.card import letter
from ..checkpoint.config import read_facts
from ..checkpoint.errors import BadInput
from ..checkpoint.inputs import Inputs, open_inputs
from ..checkpoint.loading import Checkpoint, load
from ..checkpoint.opening import open_source
from ..checkpoint.path_conflicts import Place, model_places
from ..checkpoint.source import Source
from ..checkpoint.task import classifier_task
from ..checkpoint.token_rows import ChosenRow, VocabularyPlan
from ..eval.corpora import text_places
from ..eval.processes import sharding
from ..eval.progress import Progress
from ..eval.tasks.specs import task_places, task_specs
from ..eval.tasks.task_set import TaskSet
from .composition import Composed, composed
from .contradictions import require_sense
from .plans import Align, MergePlan
from .recipes.recipe import Recipe, recipe, recipe_places
from .recipes.recipe_effect import require_effect
from .refit import stream_maps
from .reproduce import merge_command
from .saved_path import path_places
from .shareable import require_alignable_on_disk, require_shareable
from .weight_search.evolution import require_budget
from .weight_search.weight_table import WeightSpace


@dataclass(frozen=True)
class Job:
    """One merge: what is asked, and the models that were opened for it. `recipe` is None for a path between two."""

    plan: MergePlan
    recipe: Recipe | None
    inputs: Inputs
    places: tuple[Place, ...]
    dtype: torch.dtype
    device: str
    command: str
    began: float
    progress: Progress
    beside: Path | None = None
    tasks: TaskSet | None = None
    under: Checkpoint | None = None  # the base of the adapter that the merge is saved as

    @property
    def base(self) -> int:
        """How many models stand before those that are merged: 1 where the operator needs a base, else 0."""
        return int(self.recipe.has_given_base) if self.recipe else 0

    @property
    def is_composed(self) -> bool:
        """Whether models are put together from layers of several, or from stages."""
        return self.recipe is not None and self.recipe.is_composed

    def composition(self) -> Composed:
        """The model that a recipe makes of layers of several models, or of stages."""
        assert self.recipe is not None
        return _composition(self.recipe, self.inputs, self.plan)

    @property
    def ends(self) -> tuple[Checkpoint, ...]:
        """The models that are merged."""
        return self.inputs.members[self.base :]

    @property
    def in_table(self) -> bool:
        """Whether the architecture has a symmetry table."""
        return self.inputs.first.schema.aligns

    @property
    def measures_spectrum(self) -> bool:
        """Whether a verdict on the spectrum is wanted for, or the default."""
        wanted = self.plan.spectrum.measure
        moves = self.recipe is not None and self.recipe.moves  # there is no layer to hold a layer against
        # Nor a matrix to hold a matrix against where MLPs are wider.
        if self.plan.is_plain or self.plan.max_memory is not None or moves or self.plan.budget != 1:
            return False
        return (self.in_table if wanted is None else wanted) or self.plan.gates.require_spectrum


def open_job(
    models: Sequence[str | Path | Checkpoint] | Recipe,
    plan: MergePlan,
    beside: Path | None,
    progress: Progress,
    *,
    in_memory: bool = True,
) -> Job:
    """The models, checked and opened: all of them in one form, `in_memory` where they will be measured."""
    began = time.monotonic()
    given, joined = _models_and_recipe(models)
    plain = plan.as_lora is not None or (plan.vocabulary is not None and not plan.data)
    usual: Align = "none" if plain else _usual_alignment(plan, models, joined)
    plan = replace(plan, align=plan.align or usual)
    require_sense(plan, joined)
    places = tuple(recipe_places(models) if isinstance(models, Recipe) else model_places(given))
    places += tuple(text_places(plan.data) + path_places(plan.path))
    places += tuple(task_places(plan.tasks))
    device = pick_device(plan.device)
    progress.stage("checking")
    tasks = _tasks(plan) if plan.tasks else None
    inputs = open_inputs(
        given,
        families=FAMILIES,
        tokenizer_of=joined.tokenizer if joined else None,
        narrow=joined is None,
        opened=not plan.is_plain,
        longest=plan.context,
        vocabulary=plan.vocabulary or _vocabulary_plan(joined),
        template=joined.template if joined else None,
        base=joined is not None and joined.has_given_base,
        moves=joined is not None and joined.moves_anywhere,
        head=_head(plan, joined, len(given)),
    )
    places += tuple(model_places(inputs.whole))  # an adapter alone names its base
    if joined is not None:
        inputs = replace(inputs, findings=(*inputs.findings, *joined.notes))
    progress.findings(inputs.findings)
    if plan.head is not None and not inputs.first.schema.classifies:
        raise BadInput(f"--head is for classifiers, and '{inputs.first.name}' is a language model: leave it out")
    if tasks is not None:
        require_writing(inputs)
    _require_table(plan, joined, inputs)
    if joined is not None:
        require_recipe(joined, plan, inputs)
    dtype = _dtype(plan, joined, inputs)
    under = _shared_base(joined, inputs) if plan.as_lora is not None else None
    command = merge_command(plan, joined, inputs)
    require_alignable_on_disk(plan, inputs)
    if sharding():
        require_shareable(plan, joined, inputs)
    elif in_memory and not plan.is_plain and plan.max_memory is None:
        inputs = inputs.in_memory()
    return Job(plan, joined, inputs, places, dtype, device, command, began, progress, beside, tasks, under)


def require_writing(inputs: Inputs) -> None:
    """Raise BadInput for models that tasks cannot ask."""
    if not inputs.first.schema.writes:
        raise BadInput(f"--task asks language models, and '{inputs.first.name}' writes no text: leave it out")


def _tasks(plan: MergePlan) -> TaskSet:
    return TaskSet(task_specs(plan.tasks), plan.task_path, choosing=plan.objective == "task", seed=plan.seed)


def _vocabulary_plan(joined: Recipe | None) -> VocabularyPlan | None:
    """What a recipe says of the vocabulary, its models by their places; None where it says nothing."""
    if joined is None or joined.vocabulary is None:
        return None
    places = {name: place for place, name in enumerate(joined.given)}
    asked = joined.vocabulary
    tokens = tuple(
        ChosenRow(one.token, None if one.model is None else places[one.model], one.other, one.force, one.place)
        for one in asked.tokens
    )
    return VocabularyPlan(None if asked.source == "union" else places[asked.source], tokens, asked.multiple)


def _head(plan: MergePlan, joined: Recipe | None, models: int) -> int | None:
    """The place of the model whose head is taken. Raises BadInput for a letter of none."""
    if plan.head is None:
        return None
    base = int(joined is not None and joined.has_given_base)
    place = ord(plan.head) - ord("A") + base
    if place >= models:
        last = letter(models - 1 - base)
        raise BadInput(f"--head {plan.head}: there is no such model; the last one is {last}")
    return place


def _models_and_recipe(
    models: Sequence[str | Path | Checkpoint] | Recipe,
) -> tuple[Sequence[str | Path | Checkpoint], Recipe | None]:
    """The models in the order in which they are merged, and the recipe: None for two on a path."""
    if isinstance(models, Recipe):
        return models.given, models
    if len(models) == 2:
        return models, None
    names = [str(model.reference if isinstance(model, Checkpoint) else model) for model in models]
    return models, recipe("linear", names)


def _usual_alignment(plan: MergePlan, models: object, joined: Recipe | None) -> Align:
    compares = plan.data and plan.max_memory is None and not isinstance(models, Recipe)
    return "auto" if joined is None or compares else "none"


def _require_table(plan: MergePlan, joined: Recipe | None, inputs: Inputs) -> None:
    """Raise UnsupportedFamily, with the list of those that are supported, for what needs a symmetry table."""
    needs = plan.alignment not in ("auto", "none") or plan.path != "linear" or plan.spectrum.restore
    if plan.refit:
        stream_maps(family(inputs.first.config))
    if needs or plan.wants_spectrum or (joined is not None and joined.operator.knows):
        family(inputs.first.config)


def require_recipe(joined: Recipe, plan: MergePlan, inputs: Inputs) -> None:
    """Raise BadInput for words of a recipe that mean nothing for these models."""
    if joined.tokenizer is not None and not inputs.tokenizer_owner.has_tokenizer:
        where = f"{joined.vocabulary.place}: " if joined.vocabulary and joined.vocabulary.place else ""
        name = inputs.tokenizer_owner.name
        raise BadInput(f"{where}'{name}' has no tokenizer to take: name another model, or leave it out")
    if joined.is_composed:
        _composition(joined, inputs, plan)
        return
    heads = inputs.first.schema.tied if plan.alignment not in KEEP_FORM else ()  # an alignment may untie them
    names = [*inputs.first.schema.shapes, *heads]
    require_effect(joined, names)
    if plan.search is not None and plan.search.method == "cma":
        require_budget(WeightSpace.of(joined, names, plan.search.granularity), plan.search)


def _composition(joined: Recipe, inputs: Inputs, plan: MergePlan) -> Composed:
    return composed(joined, dict(zip(joined.given, inputs.members, strict=True)), seed=plan.seed)


def _shared_base(joined: Recipe | None, inputs: Inputs) -> Checkpoint:
    """The base of an adapter: the operator's, or the one that all models adapt. Raises BadInput where there is none."""
    later = "or extract the merge afterwards (isthmus extract)"
    if inputs.contexts is not None:
        raise BadInput("--as-lora is for models of one context length, for no adapter adds positions: leave it out")
    if inputs.growth is not None:
        raise BadInput(f"--as-lora is for models of one vocabulary: leave it out, {later}")
    if joined is not None and joined.operator.needs_base:
        if inputs.first.place.adapter is None:
            source = inputs.first.source or open_source(inputs.first.place)
            _require_one_task(inputs.first, read_facts(source.parts[0]), source.name)
            return inputs.first
        raise BadInput(f"--as-lora needs a base in one place, and '{inputs.first.name}' is adapted: {later[3:]}")
    sources = [member.source or open_source(member.place) for member in inputs.whole]
    bases = [source.parts[0] for source in sources]
    adapted = any(len(source.parts) > 1 for source in sources)
    if not adapted or len({base.identity for base in bases}) > 1:
        raise BadInput(f"--as-lora needs a base: merge adapters of one, take a method that has --base, {later}")
    under = load(_reference(bases[0]), families=FAMILIES, source=bases[0])
    _require_one_task(inputs.first, under.facts, under.name)
    return under if inputs.first.schema.tied else under.untied()


def _require_one_task(model: Checkpoint, base: Mapping[str, Any], name: str) -> None:
    """Raise BadInput where a model and its base do other things: adapters have no place for a head of their own."""
    tasks = [classifier_task(facts["model_type"], facts.get("architectures")) for facts in (model.facts, base)]
    if tasks[0] != tasks[1]:
        raise BadInput(
            f"--as-lora writes adapters of what their base is, and the merge is a classifier, for which '{name}' has "
            "no head: leave it out"
        )


def _reference(source: Source) -> str | Path:
    return source.reference.directory or source.reference.name


def _dtype(plan: MergePlan, joined: Recipe | None, inputs: Inputs) -> torch.dtype:
    if plan.as_lora is not None:
        return torch.float32
    name = plan.dtype or (joined.dtype if joined else None)
    if name is not None:
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    own = {member.dtype for member in inputs.members}
    return own.pop() if len(own) == 1 else torch.float32


def pick_device(name: str) -> str:
    """The device of a name; `auto` takes this process's GPU, where there is one. Raises BadInput for one not here."""
    if name == "auto":
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        raise BadInput(f"there is no device '{name}' here: say --device cpu") from None
    return name
