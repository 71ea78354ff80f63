"""The work of aligning models in closed form, from their symmetry table (`isthmus.align.matching`)."""

from __future__ import annotations

import math

import torch

from ...align.methods import KEEP_FORM, LOOKING, Method
from ...align.symmetry import Family
from .work import NOTHING, Work

HEADS, NEURONS = 4, 1  # passes over either, after each of which the stream is solved: measured 3 to 5, and 1 to 2
STARTS = 4  # of the residual stream, that are compared by what the first and the last layer promise
ROUNDS = 2  # in which every model is matched to the mean of the others, where there are more than two
VERIFIED = 128  # tokens on which a state is held against what it was
MATRIX = 0.004  # seconds of what a small matrix takes besides: it is read, folded and sorted
FLOAT64 = 2  # how many times a product takes as long in float64


def alignment(table: Family, method: Method, models: int, tokens: int = 0) -> Work:
    """Aligning `models` by a method, and verifying that; some look at what models compute on so many `tokens`."""
    if method == "none":
        return NOTHING
    acting = table.permuting() if method in KEEP_FORM else table.untied()
    heads, neurons, stream = _layers(acting)
    ends = min(1.0, 2 / _depth(acting)) * (heads if heads != NOTHING else neurons)
    once = HEADS * heads + NEURONS * neurons + (HEADS + NEURONS) * stream
    pair = once + STARTS * (ends + stream)
    work = (models - 1) * pair + (models > 2) * ROUNDS * (models - 1) * once
    if method in LOOKING:
        pairs = (models - 1) * (1 if models == 2 else 1 + ROUNDS)
        work += pairs * _seen(acting, tokens)
    state = 4.0 * _numbers(acting)
    return work + models * Work(moved=6 * state, evaluated=3 * VERIFIED)


def spectrum(table: Family) -> Work:
    """The singular values of all matrices of one model, in float64."""
    work = NOTHING
    for rows, columns in _matrices(table):
        work += Work(products=FLOAT64 * 2.0 * rows * rows * columns, singular=0.2 * rows**3, fixed=MATRIX)
    return work + Work(moved=4 * 4.0 * _numbers(table))


def restored(table: Family, models: int) -> Work:
    """Putting the singular values of `models` back into the matrices of an average."""
    work = NOTHING
    for rows, columns in _matrices(table):
        decomposed = Work(singular=rows * rows * columns)
        work += (1 + 0.4 * models) * decomposed + Work(products=FLOAT64 * 2.0 * rows * rows * columns)
    return work


def _matrices(table: Family) -> list[tuple[int, int]]:
    """The rows and columns of all matrices whose spectra are measured, the smaller number first."""
    pieces = {name: torch.empty(table.shape_of(table.pieces[name]), device="meta") for name in table.matrices}
    return [(min(matrix.shape), max(matrix.shape)) for matrix in table.measured(pieces).values()]


def _numbers(table: Family) -> int:
    return sum(math.prod(table.shape_of(piece)) for piece in table.pieces.values())


def _depth(table: Family) -> int:
    """How many layers there are."""
    return max(1, sum(bool(table.inner(name)) for name in _spaces(table)))


def _spaces(table: Family) -> list[str]:
    return [name for name, space in table.spaces.items() if name != table.stream and space.inside is None]


def _layers(table: Family) -> tuple[Work, Work, Work]:
    """Once through the heads of all layers, through their neurons, and through the stream."""
    kinds = {True: NOTHING, False: NOTHING}
    for name in _spaces(table):
        kinds[any(table.spaces[one].group.size > 1 for one in table.inner(name))] += _space(table, name)
    width = table.spaces[table.stream].group.size
    stream = Work(singular=float(width) ** 3)
    for name, position in table.occurrences(table.stream):
        if name in table.compared:
            shape = table.shape_of(table.pieces[name])
            numbers = math.prod(shape)
            stream += Work(products=2.0 * numbers * shape[position], moved=8.0 * numbers)
    return kinds[True], kinds[False], stream


def _space(table: Family, space: str) -> Work:
    """One space of a layer and what is inside of it."""
    group = table.spaces[space].group
    inside = [table.spaces[name].group.size for name in table.inner(space)]
    work = Work(assigned=float(group.size) ** 2)
    for size in inside:
        if size > 1:  # the nuclear norms of all pairs of blocks
            work += Work(singular=float(group.size) ** 2 * size**3)
    for name, position in table.occurrences(space):
        if name not in table.compared:
            continue
        shape = table.shape_of(table.pieces[name])
        numbers = math.prod(shape)
        others = sum(size for axis, size in enumerate(shape) if axis != position and _turns(table, name, axis))
        work += Work(products=2.0 * numbers * (shape[position] + others), moved=8.0 * numbers)
    return work


def _turns(table: Family, name: str, axis: int) -> bool:
    """Whether the residual stream is multiplied by a rotation along an axis of a piece."""
    stream = table.spaces[table.stream]
    return table.stream in table.pieces[name].axes[axis].spaces and stream.group.motion() is not None


def _seen(table: Family, tokens: int) -> Work:
    """The activations of two models on some text, and their correlations."""
    work = Work(evaluated=2.0 * tokens)
    for place in table.activations:
        size = table.spaces[place.space].group.size
        for around in table.outer(place.space):
            size *= table.spaces[around].group.size
        work += Work(products=2.0 * tokens * size * size, moved=24.0 * tokens * size)
    return work
