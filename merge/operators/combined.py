"""The state that an operator makes of others, tensor by tensor and block by block, when it is looked up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from ...checkpoint.errors import NotFinite
from ...checkpoint.finite import LinAlgError, magnitude
from ...checkpoint.rows import in_blocks
from .blocks import Parts
from .registry import Operator

WORTH_READING_AHEAD = 2**16  # items
WORTH_KEEPING = 2**24  # items of all states together
OUTGROWN = 1e4  # times as large as any model: no merge, but arithmetic that was lost
WAY_OUT = "take other weights or parameters"

Known = Sequence[Mapping[str, Any]]


class Combined(Mapping[str, Tensor]):
    """What an operator makes of `states` (the base first, if it needs one), with its parameters by tensor, `settings`.

    States on disk are read in blocks of rows and never in memory whole. `seed` is that of operators that draw. `known`
    are the statistics that the operator wants: the Fisher information of every model as a state, or the moments of its
    inputs.
    """

    def __init__(
        self,
        operator: Operator,
        states: Sequence[Mapping[str, Tensor]],
        settings: Mapping[str, Mapping[str, Any]],
        *,
        seed: int = 0,
        known: Known = (),
    ):
        self.operator, self.settings, self.seed, self.known = operator, settings, seed, known
        self._information: Sequence[Mapping[str, Tensor]] = known if operator.knows == "fisher" else ()
        self.states = [*states, *self._information]
        self._reader = ThreadPoolExecutor(1)

    def blocks(self, name: str) -> Iterator[Tensor]:
        """One merged tensor in blocks of rows."""
        rows = self._rows(name)
        return self._judged(self.operator.run(rows, **self._arguments(name)), rows, name)

    def slopes(self, name: str) -> Iterator[list[Tensor]]:
        """The derivatives of one merged tensor by the weight of every model, in blocks of rows.

        Of operators that have them (`isthmus.merge.operators.slopes`).
        """
        slopes = self.operator.slopes
        assert slopes is not None, "only operators with slopes are searched along them"
        return slopes(self._rows(name), **self._arguments(name))

    def _rows(self, name: str) -> _Rows:
        return _Rows(self.states, name, self._reader, models=len(self.states) - len(self._information))

    def _arguments(self, name: str) -> dict[str, Any]:
        arguments = self.operator.arguments(self.settings[name], f"{self.seed}/{name}")
        if self.operator.knows == "inputs":
            inputs = [moments[name] for moments in self.known if name in moments]
            arguments |= {"grams": [one.gram for one in inputs] or None, "axis": inputs[0].axis if inputs else 0}
        return arguments

    def _judged(self, blocks: Iterator[Tensor], rows: _Rows, name: str) -> Iterator[Tensor]:
        """The blocks, and NotFinite where arithmetic failed, or the tensor vanished or outgrew the models'."""
        maker, largest, matrix = f"the merge by {self.operator.name}", 0.0, False
        try:
            for block in blocks:
                largest, matrix = max(largest, magnitude(block)), block.ndim > 1
                yield block
        except (ArithmeticError, RuntimeError) as error:  # torch has several names for one thing
            if not isinstance(error, (ArithmeticError, LinAlgError)) and "overflow" not in str(error):
                raise
            raise NotFinite(f"'{name}' of {maker} cannot be computed ({error}): {WAY_OUT}") from None
        silenced = self.operator.name == "passthrough" and self.settings[name]["scale"] == [0]
        if matrix and largest == 0 < rows.largest and not silenced:
            raise NotFinite(f"'{name}' of {maker} would be all zero: {WAY_OUT}")
        if largest > OUTGROWN * rows.largest > 0:
            times = largest / rows.largest
            raise NotFinite(f"'{name}' of {maker} would be {times:.0e} times as large as in any model: {WAY_OUT}")

    def __getitem__(self, name: str) -> Tensor:
        return torch.cat(list(self.blocks(name)))

    def __iter__(self) -> Iterator[str]:
        return iter(self.settings)

    def __len__(self) -> int:
        return len(self.settings)


class _Rows:
    """The blocks of one tensor in several states, one read ahead; on every pass again, if they are too many to keep.

    `largest` is the largest magnitude in the first `models` of them, as far as they were read.
    """

    def __init__(self, states: Sequence[Mapping[str, Tensor]], name: str, reader: Executor, *, models: int):
        self._states, self._name, self._reader, self._models = states, name, reader, models
        self.largest, self._measured = 0.0, False
        self._kept: list[Parts] | None = None

    def __iter__(self) -> Iterator[Parts]:
        if self._kept is not None:
            yield from self._kept
            return
        blocks: list[Parts] = []
        items = 0
        for parts in self._read():
            items += sum(part.numel() for part in parts)
            if not self._measured:
                self.largest = max(self.largest, *(magnitude(part) for part in parts[: self._models]))
            if items <= WORTH_KEEPING:
                blocks.append(parts)
            else:
                blocks.clear()
            yield parts
        self._measured = True
        if items <= WORTH_KEEPING:
            self._kept = blocks

    def _read(self) -> Iterator[Parts]:
        blocks = zip(*(in_blocks(state, self._name) for state in self._states), strict=True)
        parts = next(blocks, None)
        while parts is not None:
            if parts[0].numel() < WORTH_READING_AHEAD:  # a small tensor, or the last block of one
                yield parts
                parts = next(blocks, None)
            else:
                following = self._reader.submit(next, blocks, None)
                yield parts
                parts = following.result()
