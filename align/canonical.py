"""The canonical form: a state with the gauge of its norms, biases and offsets fixed, function unchanged.

Before rotations of the residual stream are symmetries at all, every LayerNorm's scale has to be 1. Each
step below leaves the log-probabilities as they were (Ashkboos et al. 2024, arXiv 2401.15024, for the folding;
Theus et al. 2025, arXiv 2506.22712, for its use in alignment):

1. fold every norm's scale g and bias β into its readers: W ← diag(g) W, b ← b + β W; where a reader has no bias, as
   most unembeddings, the norm keeps β / g;
2. the mean over the residual axis is invisible to LayerNorm: subtract it from all that writes to the stream, and from
   the input axis of all readers whose input has none (no RMSNorm has this symmetry, nor a norm that keeps β / g);
3. the key bias adds one number to all scores of a query: set it to 0, where no rotation comes after it; attention
   weights sum to 1, so the value bias moves through the output map into its bias, if there is one;
4. the mean of the position embedding moves into the token embedding;
5. the mean unembedding row shifts all logits alike: subtract it, unless they are capped;
6. the two sides of a gated neuron, whose scale is free, get the same norm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..checkpoint.errors import CorruptCheckpoint
from .groups import Matrices
from .memory import release_freed
from .scales import Scales
from .symmetry import Family, State

ROWS = 256  # in float64 at a time: what fits into a cache


def canonical(state: Mapping[str, Tensor], table: Family) -> State:
    """The canonical form of a state, float32, with an untied unembedding; the function is unchanged.

    Computed in float64 and rounded once at the end of each step.

    Raises CorruptCheckpoint when a norm that keeps its bias has a scale of exactly zero, which no rotation can carry.
    """
    untied = table.untied()
    # No name here for the pieces: what was read from disk is freed piece by piece.
    return untied.join(canonical_pieces(_split(state, table), untied))


def _split(state: Mapping[str, Tensor], table: Family) -> State:
    """The pieces of a state by the names of the untied table."""
    whole = {parameter: state[parameter] for parameter in table.parts()}  # looked up once: it may be read from disk
    return {name: entry.of(whole[entry.parameter]) for name, entry in table.sources.items()}


def canonical_pieces(pieces: Mapping[str, Tensor], table: Family) -> State:
    """The canonical form of pieces of an untied table, float32: of all, or of some that are `linked`.

    Raises as `canonical` does.
    """
    pieces = {name: piece.double() if piece.ndim == 1 else piece for name, piece in pieces.items()}

    folding = [norm for norm in table.norms if norm.folds and norm.weight in pieces]
    for norm in folding:
        scale = norm.scale(pieces[norm.weight])
        shift = pieces[norm.bias] if norm.bias is not None else torch.zeros_like(scale)
        stays = norm.bias is not None and not norm.shifts
        if stays and (scale == 0).any():
            raise CorruptCheckpoint(
                f"'{table.pieces[norm.weight].parameter}' has a scale of exactly zero, which has no canonical "
                "form: merge with --align none --no-spectrum"
            )
        for reader in norm.readers:
            weight = pieces[reader.weight].movedim(reader.axis, -1)  # (outputs, residual)
            if norm.shifts and reader.bias is not None:
                pieces[reader.bias] = pieces[reader.bias] + weight.double() @ shift
            mean = _mean_row(weight) if reader.weight == table.head and table.unembedding.shifts else None
            if mean is not None and reader.bias is not None:
                pieces[reader.bias] = _centred(pieces[reader.bias])
            centres = norm.centres and not stays

            def folded(
                rows: Tensor, scale: Tensor = scale, mean: Tensor | None = mean, centres: bool = centres
            ) -> Tensor:
                rows = (rows if mean is None else rows - mean) * scale
                return _centred(rows) if centres else rows

            pieces[reader.weight] = _by_rows(weight, folded).movedim(-1, reader.axis)
        pieces[norm.weight] = norm.weight_of(torch.ones_like(scale))
        if norm.bias is not None:
            pieces[norm.bias] = shift / scale if stays else torch.zeros_like(shift)
        if len(folding) > 1:  # of a single layer little is freed, and often
            release_freed()

    for bias in (bias for bias in table.vanishing if bias.piece in pieces):
        cleared = pieces[bias.piece].clone()
        (cleared if bias.view is None else bias.view.in_runs(cleared)).zero_()
        pieces[bias.piece] = cleared

    for attention in (attention for attention in table.attentions if attention.output in pieces):
        carried = attention.carried(pieces[attention.value_bias], pieces[attention.output].double())
        pieces[attention.output_bias] = pieces[attention.output_bias] + carried
        pieces[attention.value_bias] = torch.zeros_like(pieces[attention.value_bias])

    moved = {}
    if table.positions is not None and table.positions in pieces:
        offset = pieces[table.positions].double().mean(dim=0)
        moved = {table.positions: -offset, table.embedding: offset}
    for name, axis in table.writers:
        if name in pieces and (table.centred or name in moved):
            written = pieces[name].movedim(axis, -1)
            added = moved.get(name, torch.zeros(written.shape[-1], dtype=torch.float64))
            change = _centred if table.centred else lambda rows: rows
            shifted = _by_rows(written, lambda rows, added=added, change=change: change(rows + added))  # type: ignore[misc]
            pieces[name] = shifted.movedim(-1, axis)
    for space in table.spaces:
        if isinstance(table.spaces[space].group, Scales):
            pieces |= balanced_sides(pieces, table, space)
    for copy, source in table.unembedding.copies.items():  # what is read by some versions of a model, and not by others
        if copy in pieces:
            pieces[copy] = pieces[source].clone()
    return {name: piece.float() for name, piece in pieces.items()}


def balanced_sides(pieces: Mapping[str, Tensor], table: Family, space: str) -> State:
    """The pieces on which a space of matrices acts, with the same singular values on both sides; none if not all are
    there.

    With P all that the space acts on directly (query, or value, with its bias) and D all on which it acts by the
    inverse transpose (key, or output), P Dᵀ is what the function sees, and stays
    (`isthmus.align.groups.Matrices.balanced`). In float64.
    """
    group = table.spaces[space].group
    assert isinstance(group, Matrices)
    sides: tuple[list[tuple[str, int]], ...] = ([], [])  # primal and dual
    for name, position in table.occurrences(space):
        sides[table.pieces[name].axes[position].dual].append((name, position))
    if not all(name in pieces for side in sides for name, _ in side):
        return {}
    rows = [
        [
            pieces[name]
            .movedim(position, -1)
            .unflatten(-1, (group.blocks, -1, group.size))
            .movedim(-3, 0)
            .flatten(1, -2)
            for name, position in side
        ]
        for side in sides
    ]
    stacks = [torch.cat([row.double() for row in side], 1) for side in rows]  # (blocks, rows, size)
    moved = {}
    for side, old, factor in zip(sides, rows, group.balanced(stacks[0], stacks[1]), strict=True):
        parts = factor.split([row.shape[1] for row in old], 1)
        for (name, position), part in zip(side, parts, strict=True):
            own = pieces[name].movedim(position, -1)
            stretches = part.unflatten(1, (*own.shape[:-1], -1)).movedim(0, -3)
            moved[name] = stretches.flatten(-3).to(own.dtype).movedim(-1, position)
    return moved


def linked(table: Family, kind: type[Matrices] = Scales) -> dict[str, frozenset[str]]:
    """For every piece of an untied table, the pieces that its canonical form depends on, itself among them; and all on
    which a space of some `kind` acts together.
    """
    groups: dict[str, set[str]] = {name: {name} for name in table.pieces}
    for norm in table.norms:
        readers = [name for reader in norm.readers for name in (reader.weight, reader.bias)]
        _join(groups, [norm.weight, norm.bias, *readers])
    for attention in table.attentions:
        _join(groups, [attention.value_bias, attention.output, attention.output_bias])
    _join(groups, [table.positions, table.embedding])
    for copy, source in table.unembedding.copies.items():
        if copy in groups:
            _join(groups, [copy, source])
    for space in table.spaces:
        if isinstance(table.spaces[space].group, kind):
            _join(groups, [name for name, _ in table.occurrences(space)])
    return {name: frozenset(group) for name, group in groups.items()}


def _join(groups: dict[str, set[str]], names: Sequence[str | None]) -> None:
    together = set().union(*(groups[name] for name in names if name is not None))
    for name in together:
        groups[name] = together


def _mean_row(matrix: Tensor) -> Tensor:
    total: Tensor = sum(rows.double().sum(0) for rows in torch.split(matrix, ROWS))  # type: ignore[assignment]
    return total / matrix.shape[0]


def _centred(rows: Tensor) -> Tensor:
    return rows - rows.mean(dim=-1, keepdim=True)


def _by_rows(matrix: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change rows in float64 and round them, some at a time, so that no embedding is held in float64 whole."""
    if matrix.ndim == 1:
        return change(matrix.double()).float()
    result = torch.empty(matrix.shape, dtype=torch.float32)
    for start in range(0, len(matrix), ROWS):
        result[start : start + ROWS] = change(matrix[start : start + ROWS].double())
    return result
