"""What a merge did, from squared distances between the merge, its parents and their base.

All quantities follow from the matrix of squared distances between these models, with the origin as one more point, by
⟨x − r, y − r⟩ = (‖x − r‖² + ‖y − r‖² − ‖x − y‖²) / 2. Squared distances of tensors add up to those of a layer, of a
kind of matrix and of the whole model, and are summed block of rows by block of rows, so that memory is constant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from ..align.symmetry import Family
from ..checkpoint.rows import in_blocks

ATTENTION, MLP, EMBEDDINGS, NORMS, HEAD, OTHER = "attention", "MLP", "embeddings", "norms", "head", "other"
PARTS = (ATTENTION, MLP, NORMS, EMBEDDINGS, HEAD, OTHER)
RANK = 1e-10  # singular values of a Gram matrix below this share of the largest count as zero
_ATTENTION_KINDS = frozenset("qkvo")
_NAMES = {  # of tensors, for architectures without a table
    NORMS: re.compile(r"norm|(^|\.)ln_?\w*\.|layernorm", re.IGNORECASE),
    EMBEDDINGS: re.compile(r"embed(?!_out)|(^|\.)w[tp]e\.", re.IGNORECASE),
    HEAD: re.compile(r"(^|\.)(lm_head|embed_out|score|classifier|cls|qa_outputs)\b"),
    ATTENTION: re.compile(r"attn|attention", re.IGNORECASE),
}


@dataclass(frozen=True)
class Cell:
    """Where a tensor stands: its layer (None outside of all), its part of the model, its kind of matrix."""

    layer: int | None
    part: str
    kind: str


def cell_of(name: str, table: Family | None = None) -> Cell:
    """Where a tensor stands, by the symmetry table of its architecture, or by its name where there is none.

    A fused weight has the kinds of its pieces, joined: ``q+k+v``. A bias has the kind of its matrix.
    """
    number = re.search(r"\.(\d+)\.", name)
    layer = int(number[1]) if number else None
    pieces = table.parts().get(name) if table is not None else None
    if table is None or pieces is None:
        return Cell(layer, *_by_name(name, layer))
    if pieces[0] in (table.embedding, table.positions):
        return Cell(None, EMBEDDINGS, EMBEDDINGS)
    matrices = [piece for piece in (piece.removesuffix(".bias") for piece in pieces) if piece in table.matrices]
    kinds = [piece.rpartition(".")[2] for piece in matrices]
    if kinds:
        return Cell(layer, ATTENTION if _ATTENTION_KINDS.issuperset(kinds) else MLP, "+".join(kinds))
    if pieces[0] == table.head or name.startswith("score."):
        return Cell(None, HEAD, HEAD)
    norms = {norm.weight for norm in table.norms} | {norm.bias for norm in table.norms}
    if norms.intersection(pieces):
        return Cell(layer, NORMS, NORMS)
    return Cell(layer, *_by_name(name, layer))


def _by_name(name: str, layer: int | None) -> tuple[str, str]:
    part = next((part for part, pattern in _NAMES.items() if pattern.search(name)), MLP if layer is not None else OTHER)
    module = name.rpartition(".")[0].rpartition(".")[2]
    return part, module if part in (ATTENTION, MLP) else part


@dataclass(frozen=True)
class Moments:
    """Sums over the entries of some tensors.

    `squares` (n + 1, n + 1), float64, are the squared distances between n models, the merge first, then `parents` of
    them, then the base if there is one, and the origin. `opposed` counts the entries in which task vectors differ in
    sign, `magnitude` is Σ of |task vectors|, and `opposed_magnitude` that of these entries; 0 without a base.
    """

    squares: Tensor
    parents: int
    entries: int = 0
    opposed: int = 0
    magnitude: float = 0.0
    opposed_magnitude: float = 0.0

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.squares + other.squares,
            self.parents,
            self.entries + other.entries,
            self.opposed + other.opposed,
            self.magnitude + other.magnitude,
            self.opposed_magnitude + other.opposed_magnitude,
        )

    def times(self, factor: float) -> Moments:
        """The sums of `factor` times as many entries, of which these are a sample."""
        return Moments(
            self.squares * factor,
            self.parents,
            round(self.entries * factor),
            round(self.opposed * factor),
            self.magnitude * factor,
            self.opposed_magnitude * factor,
        )

    @property
    def based(self) -> bool:
        """Whether there is a base."""
        return len(self.squares) == self.parents + 3

    def gram(self, points: Sequence[int], origin: int) -> Tensor:
        """⟨x − r, y − r⟩ of all pairs of `points`, r the point `origin`: (points, points), float64."""
        picked = list(points)
        own = self.squares[picked, origin]
        return (own[:, None] + own[None, :] - self.squares[picked][:, picked]) / 2


def moments(states: Sequence[Mapping[str, Tensor]], name: str, *, based: bool) -> Moments:
    """The sums of one tensor of the merge, its parents and, with `based`, their base, block by block in float64."""
    parents = len(states) - 1 - based
    size = len(states) + 1
    total = Moments(torch.zeros(size, size, dtype=torch.float64), parents)
    for blocks in _together(states, name):
        points = [block.double().flatten() for block in blocks]
        squares = torch.zeros(size, size, dtype=torch.float64)
        for i, j in combinations(range(size), 2):
            difference = points[i] if j == len(states) else points[i] - points[j]
            squares[i, j] = squares[j, i] = difference.dot(difference)
        counts: tuple[int, float, float] = (0, 0.0, 0.0)
        if based:
            counts = _opposed(torch.stack([point - points[-1] for point in points[1:-1]]))
        total += Moments(squares, parents, points[0].numel(), *counts)
    return total


def _together(states: Sequence[Mapping[str, Tensor]], name: str) -> Iterator[tuple[Tensor, ...]]:
    """The blocks of a tensor in all states, side by side."""
    yield from zip(*(in_blocks(state, name) for state in states), strict=True)


def _opposed(vectors: Tensor) -> tuple[int, float, float]:
    """Entries (columns) with both signs among the rows: how many, Σ|·| of all entries, and of these."""
    opposed = (vectors.amax(0) > 0) & (vectors.amin(0) < 0)
    sizes = vectors.abs().sum(0)
    return int(opposed.sum()), float(sizes.sum()), float(sizes[opposed].sum())


def relations(sums: Moments) -> dict[str, Any]:
    """What the merge is to its parents in some tensors, JSON-ready; None where a number is undefined (0 / 0).

    ``distances`` ‖M − P‖ / ‖M‖ of every parent; ``apart`` ‖P − P'‖ / ‖M‖ of every pair of parents, in the order AB, AC,
    ..., BC. ``weights`` are the coefficients with which the parents make up the merge best in the least-squares sense:
    with a base those of their task vectors, M − base ≈ Σ w (P − base), solved together, so that correlated task vectors
    are told apart; without one they add up to 1, M ≈ Σ w P. ``unexplained`` is what is left: with a base the share of
    ‖M − base‖², without one the distance from the line (plane) through the parents over the largest between these.
    With a base there are ``projections`` ⟨M − base, P − base⟩ / ‖P − base‖² of every parent taken alone, ``cosines``
    between task vectors, ``conflict`` the share of entries whose signs differ, ``conflict_by_magnitude`` their share of
    Σ|P − base|, and ``moved`` ‖P − base‖ / ‖M‖.
    """
    parents, size = list(range(1, sums.parents + 1)), len(sums.squares)
    norm = float(sums.squares[0, size - 1]) ** 0.5
    pairs = list(combinations(parents, 2))

    def distance(i: int, j: int) -> float | None:
        return _ratio(float(sums.squares[i, j]) ** 0.5, norm)

    facts: dict[str, Any] = {
        "entries": sums.entries,
        "distances": [distance(0, parent) for parent in parents],
        "apart": [distance(i, j) for i, j in pairs],
    }
    if not sums.based:
        weights, rest = _fitted(sums.gram([0, *parents[1:]], parents[0]))
        widest = max((float(sums.squares[i, j]) for i, j in pairs), default=0.0)
        whole = None if weights is None else [1 - sum(weights), *weights]
        return facts | {"weights": whole, "unexplained": _ratio(rest**0.5, widest**0.5)}
    base = size - 2
    gram = sums.gram([0, *parents], base)
    weights, rest = _fitted(gram)
    lengths = gram.diagonal().clamp_min(0).sqrt()
    return facts | {
        "weights": weights,
        "unexplained": _ratio(rest, float(gram[0, 0])),
        "projections": [_ratio(float(gram[0, i]), float(gram[i, i])) for i in parents],
        "cosines": [_ratio(float(gram[i, j]), float(lengths[i] * lengths[j])) for i, j in pairs],
        "moved": [distance(base, parent) for parent in parents],
        "conflict": _ratio(sums.opposed, sums.entries),
        "conflict_by_magnitude": _ratio(sums.opposed_magnitude, sums.magnitude),
    }


def _fitted(gram: Tensor) -> tuple[list[float] | None, float]:
    """Least-squares coefficients of the vectors behind the first for the first, and the squared norm of what is left.

    Those of least norm where vectors depend on each other; None where all are zero.
    """
    inner, target = gram[1:, 1:], gram[1:, 0]
    if not bool(inner.diagonal().gt(0).any()):
        return None, max(0.0, float(gram[0, 0]))
    weights = torch.linalg.pinv(inner, rtol=RANK, hermitian=True) @ target
    rest = float(gram[0, 0] - 2 * weights @ target + weights @ inner @ weights)
    return weights.tolist(), max(0.0, rest)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


@dataclass(frozen=True)
class Explanation:
    """The sums of every tensor, added up by cell."""

    cells: Mapping[Cell, Moments]

    @property
    def total(self) -> Moments:
        """Over the whole model."""
        return _sum(list(self.cells.values()))

    def by_layer(self) -> dict[int, Moments]:
        """Over the tensors of every layer."""
        layers = sorted({cell.layer for cell in self.cells if cell.layer is not None})
        return {layer: _sum([m for cell, m in self.cells.items() if cell.layer == layer]) for layer in layers}

    def by_kind(self) -> dict[tuple[str, str], Moments]:
        """Over the tensors of every kind, by part and kind, parts in the order of `PARTS`."""
        given = dict.fromkeys((cell.part, cell.kind) for cell in self.cells)
        kinds = sorted(given, key=lambda one: PARTS.index(one[0]))
        return {one: _sum([m for cell, m in self.cells.items() if (cell.part, cell.kind) == one]) for one in kinds}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the whole, the layers, the kinds, and the cells of one layer and kind."""
        return {
            "total": relations(self.total),
            "layers": [{"layer": layer, **relations(sums)} for layer, sums in self.by_layer().items()],
            "kinds": [{"part": part, "kind": kind, **relations(sums)} for (part, kind), sums in self.by_kind().items()],
            "cells": [
                {"layer": cell.layer, "part": cell.part, "kind": cell.kind, **relations(sums)}
                for cell, sums in self.cells.items()
            ],
        }


def _sum(parts: Sequence[Moments]) -> Moments:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
