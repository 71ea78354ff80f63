"""Several recipes in one file, of which later ones name earlier ones as models: one recipe with its stages.

As in mergekit-multi, every recipe but one has a name, and the one without is the result; where all have names, the last
one is. They may stand in any order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...checkpoint.checks.finding import Finding
from ...checkpoint.errors import BadInput
from .recipe import Recipe, Stage, Vocabulary

MOST = 100  # recipes in a file


@dataclass(frozen=True)
class Document:
    """One document of a file: its `recipe`, its `name` and where that is, and where `models` are first named in it.

    `vocabulary` reads what it says of the tokenizer, with the models that are there; `template` is its chat template,
    `tokens_at` where it says any of that.
    """

    name: str | None
    recipe: Recipe
    place: str
    models: Mapping[str, str]
    vocabulary: Callable[[Collection[str]], Vocabulary | None] = field(repr=False)
    template: str | None = None
    tokens_at: str | None = None


def with_stages(documents: Sequence[Document]) -> Recipe:
    """The recipe that is the result of some documents, with the others as its stages, in an order in which they can be
    made.

    Raises BadInput, with the line, for a name that is given twice, is a directory, or is that of a stage that nothing
    needs; for two without a name; for stages that need each other; for what only a result has.
    """
    if len(documents) > MOST:
        raise BadInput(f"{documents[MOST].place}: a file may have {MOST} recipes, and here are {len(documents)}")
    named: dict[str, Document] = {}
    unnamed = [document for document in documents if document.name is None]
    if len(unnamed) > 1:
        raise BadInput(f"{unnamed[1].place}: this recipe has no name, and another one neither: one is the result")
    for document in documents:
        if document.name is None or len(documents) == 1:
            continue
        if document.name in named:
            raise BadInput(f"{document.place}: '{document.name}' is the name of an earlier recipe, too: take another")
        if os.path.isdir(os.path.expanduser(document.name)):  # noqa: PTH111, PTH112 - any text may be a name
            raise BadInput(f"{document.place}: '{document.name}' is a directory here, too: give the stage another name")
        named[document.name] = document
    result = unnamed[0] if unnamed else documents[-1]
    order: list[Document] = []
    _visit(result, named, [], order)
    stages = order[:-1]
    for document in documents:
        if not any(document is one for one in order):
            raise BadInput(f"{document.place}: nothing needs the stage '{document.name}': leave it out")
    for document in documents:
        for name, place in document.models.items():
            part = next((one for one in named if name.startswith(f"{one}+")), None)
            if part is not None:
                raise BadInput(f"{place}: '{part}' is a stage, and no adapter can be put on one")
    for stage in stages:
        if stage.tokens_at is not None:
            raise BadInput(
                f"{stage.tokens_at}: a stage has the tokenizer of its models: write this into the recipe of the result"
            )
    notes = [note for document in order for note in document.recipe.notes]
    notes += [_unrounded(stage) for stage in stages if stage.recipe.dtype not in (None, "float32")]
    recipe = replace(
        result.recipe,
        stages=tuple(Stage(str(stage.name), stage.recipe) for stage in stages),
        notes=tuple(notes),
        template=result.template,
    )
    return replace(recipe, vocabulary=_vocabulary(recipe, result))


def _vocabulary(recipe: Recipe, result: Document) -> Vocabulary | None:
    """What the result says of its vocabulary, once it is known which models are there and which are made."""
    base = () if recipe.base is None else (recipe.base,)
    made = {stage.name for stage in recipe.stages}
    return result.vocabulary([name for name in (*recipe.given, *base, *result.models) if name not in made])


def _visit(document: Document, named: Mapping[str, Document], path: list[Document], order: list[Document]) -> None:
    """Append a document to `order` after all that it needs; `path` are those that need it."""
    if any(document is one for one in order):
        return
    for name, place in document.models.items():
        if name not in named:
            continue
        needed = named[name]
        if needed is document or any(needed is one for one in path):
            names = " needs ".join(f"'{one.name}'" for one in [*path, document] if one.name is not None)
            raise BadInput(f"{place}: these stages need each other, and none can be made first: {names} needs '{name}'")
        _visit(needed, named, [*path, document], order)
    order.append(document)


def _unrounded(stage: Document) -> Finding:
    what = f"{stage.place}: the stage '{stage.name}' is not rounded to {stage.recipe.dtype}"
    file = Path(stage.place.partition("'")[2].partition("'")[0]).name
    return Finding("notes", what, "only the result is: stages stay in float32, and are not written to disk", file)
