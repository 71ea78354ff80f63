"""Classifiers: the body of a language model with a head that reads its last hidden vectors in place of the unembedding.

Decoders have one linear map, by its name in transformers ``score`` or ``classifier``. Its inputs are where those of the
unembedding would be, so that it takes the scale of the last norm, and turns with the residual stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from ...checkpoint.task import TOKENS, Task, classifier_task
from ..symmetry import Family
from ..table_entries import Activation, Axis, Head, LinearMap, Piece

CLASSIFIER = "classifier"  # the name of the piece
# What the classifiers of tokens call their head, where it is not as those of texts do.
OTHER_NAMES = {"gpt2": "classifier", "gpt_neox": "classifier"}


def task(config: Any) -> Task | None:
    """The task of a classifier; None for language models.

    Raises TypeError for the content of a file of a classifier: how many labels there are, transformers says.
    """
    found = classifier_task(config.model_type, getattr(config, "architectures", None))
    if found is not None and isinstance(config, SimpleNamespace):
        raise TypeError("the content of a file")
    return found


def with_classifiers(build: Callable[[Any], Family]) -> Callable[[Any], Family]:
    """The builder of the tables of a decoder, for its classifiers too."""

    def table(config: Any) -> Family:
        classifier = task(config)
        if classifier is None:
            return build(config)
        name = OTHER_NAMES.get(config.model_type, "score") if classifier == TOKENS else "score"
        return _classifier(build(config), name, config.num_labels, bias=classifier == TOKENS, task=classifier)

    return table


def _classifier(table: Family, module: str, labels: int, *, bias: bool, task: Task) -> Family:
    """A table with a linear map to labels in the place of its unembedding."""
    old = table.unembedding
    stream = old.piece.axes[1]
    pieces = {name: piece for name, piece in table.pieces.items() if name.partition(".")[0] != old.name}
    pieces |= head_pieces(CLASSIFIER, module, labels, stream, bias=bias)
    norms = tuple(
        replace(
            norm,
            readers=tuple(
                replace(reader, weight=CLASSIFIER, bias=f"{CLASSIFIER}.bias" if bias else None)
                if reader.weight == old.name
                else reader
                for reader in norm.readers
            ),
        )
        for norm in table.norms
    )
    linear = LinearMap(module, 1)
    return replace(
        table,
        pieces=pieces,
        norms=norms,
        unembedding=Head(CLASSIFIER, pieces[CLASSIFIER], linear, shifts=False),
        tied=False,
        activations=tuple(
            Activation(place.space, module, "input") if place.module == old.map.module else place
            for place in table.activations
        ),
        maps=(*(one for one in table.maps if one != old.map), linear),
        task=task,
        sound=False,
    )


def head_pieces(name: str, module: str, labels: int, inputs: Axis, *, bias: bool = True) -> dict[str, Piece]:
    """The pieces of a linear map to labels."""
    rows = Axis(size=labels)
    pieces = {name: Piece(f"{module}.weight", (rows, inputs))}
    return {**pieces, f"{name}.bias": Piece(f"{module}.bias", (rows,))} if bias else pieces
