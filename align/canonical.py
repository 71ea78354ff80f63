"""The canonical form: a state with the gauge of its norms, biases and offsets fixed, function unchanged.

Before rotations of the residual stream are symmetries at all, every LayerNorm's scale has to be 1. Each
step below leaves the log-probabilities as they were (Ashkboos et al. 2024, arXiv 2401.15024, for the folding;
Theus et al. 2025, arXiv 2506.22712, for its use in alignment):

1. fold every norm's scale g and bias β into its readers: W ← diag(g) W, b ← b + β W; the unembedding has no bias, so
   its norm keeps β / g;
2. the mean over the residual axis is invisible to LayerNorm: subtract it from all that writes to the stream, and
   from the input axis of all biased readers, whose input has none;
3. the key bias adds one number to all scores of a query: set it to 0; attention weights sum to 1, so the value
   bias moves through the output map into its bias;
4. the mean of the position embedding moves into the token embedding;
5. the mean unembedding row shifts all logits alike: subtract it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..checkpoint.errors import CorruptCheckpoint
from .symmetry import Family, State

ROWS = 4096


def canonical(state: Mapping[str, Tensor], table: Family) -> State:
    """The canonical form of a state, float32, with an untied unembedding; the function is unchanged.

    Computed in float64 and rounded once at the end of each step.

    Raises CorruptCheckpoint when the final norm has a scale of exactly zero, which no rotation can carry.
    """
    pieces = table.split(state)
    if table.tied:
        table = table.untied()
        pieces[table.head] = pieces[table.embedding]
    return table.join(canonical_pieces(pieces, table))


def canonical_pieces(pieces: Mapping[str, Tensor], table: Family) -> State:
    """The canonical form of pieces of an untied table, float32: of all, or of some that are `linked`.

    Raises as `canonical` does.
    """
    pieces = {name: piece.double() if piece.ndim == 1 else piece for name, piece in pieces.items()}

    for norm in (norm for norm in table.norms if norm.weight in pieces):
        scale, shift = pieces[norm.weight], pieces[norm.bias]
        kept = torch.zeros_like(shift)
        for reader in norm.readers:
            weight = pieces[reader.weight].movedim(reader.axis, -1)  # (outputs, residual)
            if reader.bias is None:
                if (scale == 0).any():
                    raise CorruptCheckpoint(
                        f"'{table.pieces[norm.weight].parameter}' has a scale of exactly zero, which has no canonical "
                        "form: merge with --align none --no-spectrum"
                    )
                kept = shift / scale
                mean = sum(rows.double().sum(0) for rows in torch.split(weight, ROWS)) / weight.shape[0]
                folded = _by_rows(weight, lambda rows, g=scale, m=mean: (rows - m) * g)  # type: ignore[misc]
            else:
                pieces[reader.bias] = pieces[reader.bias] + weight.double() @ shift
                folded = _by_rows(weight, lambda rows, g=scale: _centred(rows * g))  # type: ignore[misc]
            pieces[reader.weight] = folded.movedim(-1, reader.axis)
        pieces[norm.weight], pieces[norm.bias] = torch.ones_like(scale), kept

    for attention in (attention for attention in table.attentions if attention.output in pieces):
        pieces[attention.key_bias] = torch.zeros_like(pieces[attention.key_bias])
        carried = pieces[attention.value_bias] @ pieces[attention.output].double()
        pieces[attention.output_bias] = pieces[attention.output_bias] + carried
        pieces[attention.value_bias] = torch.zeros_like(pieces[attention.value_bias])

    moved = {}
    if table.positions in pieces:
        offset = pieces[table.positions].double().mean(dim=0)
        moved = {table.positions: -offset, table.embedding: offset}
    for name, axis in table.writers:
        if name in pieces:
            written = pieces[name].movedim(axis, -1)
            added = moved.get(name, torch.zeros(written.shape[-1], dtype=torch.float64))
            centred = _by_rows(written, lambda rows, added=added: _centred(rows + added))  # type: ignore[misc]
            pieces[name] = centred.movedim(-1, axis)
    return {name: piece.float() for name, piece in pieces.items()}


def linked(table: Family) -> dict[str, frozenset[str]]:
    """For every piece of an untied table, the pieces that its canonical form depends on, itself among them."""
    groups: dict[str, set[str]] = {name: {name} for name in table.pieces}
    for norm in table.norms:
        readers = [name for reader in norm.readers for name in (reader.weight, reader.bias) if name]
        _join(groups, [norm.weight, norm.bias, *readers])
    for attention in table.attentions:
        _join(groups, [attention.key_bias, attention.value_bias, attention.output, attention.output_bias])
    _join(groups, [table.positions, table.embedding])
    return {name: frozenset(group) for name, group in groups.items()}


def _join(groups: dict[str, set[str]], names: Sequence[str]) -> None:
    together = set().union(*(groups[name] for name in names))
    for name in together:
        groups[name] = together


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
