"""A search for weights on disk while it goes on: the scores of what was tried."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...checkpoint.errors import CorruptCheckpoint
from ...checkpoint.saving import replace_json
from ...eval.loss import Losses
from ..training.training_state import TrainingState
from .weight_table import Table


class SearchState(TrainingState):
    """The folder of one search, beside its output, as trainings are kept: `latest.json` has all scores in order."""

    def keep(self, scores: Mapping[Table, Losses]) -> None:
        """Keep all scores so far."""
        tried = [
            {"weights": [list(row) for row in table], "score": {k: v.tolist() for k, v in score.per_block.items()}}
            for table, score in scores.items()
        ]
        replace_json(self.folder / "latest.json", {"identity": self.identity, "tried": tried})

    def scores(self) -> dict[Table, Losses]:
        """The scores that were kept. Raises BadInput where the file is damaged."""
        try:
            return {
                tuple(tuple(map(float, row)) for row in one["weights"]): Losses(
                    {label: torch.tensor(values, dtype=torch.float64) for label, values in one["score"].items()}
                )
                for one in self._latest()["tried"]
            }
        except (OSError, KeyError, TypeError, ValueError, AttributeError, CorruptCheckpoint):
            raise self.damaged() from None
