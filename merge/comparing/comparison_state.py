"""A comparison on disk while it goes on: the methods that are done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...checkpoint.errors import CorruptCheckpoint
from ...checkpoint.saving import replace_json
from ...eval.loss import Losses
from ...eval.tasks.task_set import TaskScores
from ..training.training_state import TrainingState

PARTS = ("select", "report")


@dataclass(frozen=True)
class Result:
    """What a model does on the text and the documents that choose, and on those that report; `tasks` of either are
    empty where there are none.
    """

    losses: Mapping[str, Losses]
    tasks: Mapping[str, TaskScores]

    def to_dict(self) -> dict[str, Any]:
        """Its values by part, label and block, JSON-ready."""
        return {
            kind: {part: {k: v.tolist() for k, v in own.per_block.items()} for part, own in parts.items()}
            for kind, parts in (("losses", self.losses), ("tasks", self.tasks))
        }

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> Result:
        """The result that `to_dict` gave."""

        def tensors(part: Mapping[str, Any]) -> dict[str, torch.Tensor]:
            return {label: torch.tensor(own, dtype=torch.float64) for label, own in part.items()}

        return cls(
            {part: Losses(tensors(values["losses"][part])) for part in PARTS},
            {part: TaskScores(tensors(values["tasks"][part])) for part in PARTS if part in values["tasks"]},
        )


@dataclass(frozen=True)
class MethodResult:
    """What came of one method: its `result`, None where it `failed`, and its `record` in the report."""

    name: str
    result: Result | None
    record: Mapping[str, Any]
    failed: str | None = None


class ComparisonState(TrainingState):
    """The folder of one comparison, beside its output, as trainings are kept."""

    def keep(self, done: Sequence[MethodResult]) -> None:
        """Keep all methods that are done."""
        rows = [
            {
                "name": one.name,
                "result": None if one.result is None else one.result.to_dict(),
                "record": dict(one.record),
                "failed": one.failed,
            }
            for one in done
        ]
        replace_json(self.folder / "latest.json", {"identity": self.identity, "methods": rows})

    def done(self) -> list[MethodResult]:
        """The methods that were kept; none where there is nothing to go on with. Raises BadInput as `exists` does, and
        where the file is damaged.
        """
        if not self.exists():
            return []
        try:
            return [
                MethodResult(
                    str(row["name"]),
                    None if row["result"] is None else Result.of_dict(row["result"]),
                    dict(row["record"]),
                    row["failed"],
                )
                for row in self._latest()["methods"]
            ]
        except (OSError, KeyError, TypeError, ValueError, AttributeError, CorruptCheckpoint):
            raise self.damaged() from None
