"""How a merge differs from the models that it is made of, summed up from the tensors that pass while it is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ..align.families import FAMILIES
from ..checkpoint.model import table_of
from ..checkpoint.rows import ComputedState, in_blocks
from ..eval.explanation import Cell, Explanation, Moments, cell_of, moments

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from ..align.symmetry import Family

FEWEST = 2**16  # entries of a tensor that are compared at least, all where it has few more
STEP = 67  # beyond that, every 67th entry at the farthest, until there are `MOST`
MOST = 2**18  # entries of one tensor that are compared at most


def cells_of(names: Sequence[str], config: PretrainedConfig | None = None) -> dict[str, Cell]:
    """Where the tensors of a model stand, by its symmetry table, if it has one, or by their names.

    Without a configuration, which takes transformers to make, it is by names. Matrices of attention and of an MLP that
    are called alike are told apart by the module that they are in.
    """
    table = None if config is None else cast("Family | None", table_of(config, FAMILIES))
    cells = {name: cell_of(name, table) for name in names}
    parts: dict[str, set[str]] = {}
    for cell in cells.values():
        parts.setdefault(cell.kind, set()).add(cell.part)
    return {
        name: cell if len(parts[cell.kind]) == 1 else replace(cell, kind=".".join(name.split(".")[-3:-1]))
        for name, cell in cells.items()
    }


def compared(
    states: Sequence[Mapping[str, Tensor]],
    cells: Mapping[str, Cell],
    *,
    based: bool,
    on_tensor: Callable[[], None] = lambda: None,
) -> Explanation:
    """A merge against its parents and, with `based`, their base, entry by entry: `states` in this order."""
    sums: dict[str, Moments] = {}
    for name in cells:
        sums[name] = moments(states, name, based=based)
        on_tensor()
    return _by_cell(sums, cells)


def _by_cell(sums: Mapping[str, Moments], cells: Mapping[str, Cell]) -> Explanation:
    total: dict[Cell, Moments] = {}
    for name, one in sums.items():
        cell = cells[name]
        total[cell] = total[cell] + one if cell in total else one
    return Explanation(total)


@dataclass(frozen=True)
class Differences:
    """How a merge differs from its models; the `share` of entries that were compared; tensors that were `left_out`."""

    explanation: Explanation
    share: float = 1.0
    left_out: frozenset[str] = frozenset()


def entry_step(shape: Sequence[int]) -> int:
    """Every how many-th entry of a tensor is compared while it passes, 1 for all.

    It has no divisor in common with the length of a row, so that all rows and all columns are seen.
    """
    items, width = math.prod(shape), math.prod(shape[1:])
    step = max(1, min(items // FEWEST, STEP), items // MOST)
    return next(one for one in range(step, 0, -1) if math.gcd(one, width) == 1)


class Observed:
    """Models that are merged from disk to disk: some of their entries are kept until the same of the merge pass.

    Nothing is read twice, and at most `MOST` entries of a tensor are kept of each model. `shapes` are those of the
    tensors, `dtype` is what the merge is saved in, and as which it is compared. With `based` the first of `states` is
    the base. Of large tensors every n-th entry is compared (`entry_step`), and counts n times, so that what is said of
    them is an estimate. Nothing is said of tensors that are `left_out`.
    """

    def __init__(
        self,
        states: Sequence[Mapping[str, Tensor]],
        shapes: Mapping[str, tuple[int, ...]],
        dtype: torch.dtype,
        *,
        based: bool,
        left_out: frozenset[str] = frozenset(),
    ):
        self._states, self._shapes, self._dtype, self._based = tuple(states), shapes, dtype, based
        self._left_out = left_out
        self._entries: dict[str, list[dict[int, Tensor]]] = {}  # name → by model, {first entry of a block: some of it}
        self._sums: dict[str, Moments] = {}

    @property
    def models(self) -> list[ComputedState]:
        """The models, to be read by what merges them."""
        return [
            ComputedState(state, partial(self._tensor, place), partial(self._blocks, place))
            for place, state in enumerate(self._states)
        ]

    def merged(self, state: Mapping[str, Tensor]) -> ComputedState:
        """The merge of `models`, to be read by what saves it. A tensor is compared when it is read to its end."""

        def blocks(name: str) -> Iterator[Tensor]:
            yield from self._compared(name, in_blocks(state, name))

        def tensor(name: str) -> Tensor:
            whole = state[name]
            _exhaust(self._compared(name, in_blocks({name: whole}, name)))
            return whole

        return ComputedState(state, tensor, blocks)

    @property
    def is_complete(self) -> bool:
        """Whether all tensors of the merge have passed."""
        return self._sums.keys() == self._shapes.keys()

    def differences(self) -> Differences:
        """What was seen, when all tensors have passed."""
        names = [name for name in self._shapes if name not in self._left_out]
        sums = {name: self._sums[name] for name in names}
        seen = sum(len(range(0, math.prod(self._shapes[name]), entry_step(self._shapes[name]))) for name in names)
        share = seen / sum(math.prod(self._shapes[name]) for name in names)
        return Differences(_by_cell(sums, cells_of(names)), share, self._left_out)

    def _tensor(self, model: int, name: str) -> Tensor:
        whole = self._states[model][name]
        _exhaust(self._kept(model, name, in_blocks({name: whole}, name)))
        return whole

    def _blocks(self, model: int, name: str) -> Iterator[Tensor]:
        return self._kept(model, name, in_blocks(self._states[model], name))

    def _kept(self, model: int, name: str, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
        step, start = entry_step(self._shapes[name]), 0
        kept = self._entries.setdefault(name, [{} for _ in self._states])[model]
        for block in blocks:
            kept[start] = _sample(block, start, step)
            start += block.numel()
            yield block

    def _compared(self, name: str, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
        shape, start, own = self._shapes[name], 0, list[Tensor]()
        step = entry_step(shape)
        for block in blocks:
            own.append(_sample(block, start, step).to(self._dtype).float())
            start += block.numel()
            yield block
        parts = [self._taken(model, name) for model in range(len(self._states))]
        ordered = [torch.cat(own), *(parts[1:] + parts[:1] if self._based else parts)]
        sums = moments([{name: part} for part in ordered], name, based=self._based)
        self._entries.pop(name)
        self._sums[name] = sums.times(math.prod(shape) / len(range(0, math.prod(shape), step)))

    def _taken(self, model: int, name: str) -> Tensor:
        """The kept entries of a tensor of a model."""
        if name not in self._entries or not self._entries[name][model]:
            _exhaust(self._blocks(model, name))  # one of weight 0, which nothing else reads
        kept = self._entries[name][model]
        return torch.cat([kept[start] for start in sorted(kept)])


def _sample(block: Tensor, start: int, step: int) -> Tensor:
    """Every `step`-th entry of a tensor, of those in a block that begins with the entry `start`; a copy."""
    return block.flatten()[-start % step :: step].clone()


def _exhaust(blocks: Iterator[Tensor]) -> None:
    for _ in blocks:
        pass
