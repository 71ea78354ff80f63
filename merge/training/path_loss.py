"""The loss of a point on a path, as a function of what is trained: of its bends, and of the alignment of its ends.

The endpoints are teachers (distillation: Hinton et al. 2015, arXiv 1503.02531).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from typing_extensions import override

from ...align.families import family
from ...align.learned import LearnedAlignment
from ...align.symmetry import Family, State
from ...checkpoint.model import arguments, empty_model, with_tied
from ...eval.targets import IGNORED, predicted, scores, shown
from ..path import Averages, mix

if TYPE_CHECKING:
    from transformers import PretrainedConfig

TRUE_SHARE = 0.5  # of what a path is taught on the user's text, that text; the rest are its teachers

P = TypeVar("P", bound=Averages)


class PathLoss(nn.Module, ABC):
    """The loss at θ(t), a point of a path that is taught by its ends.

    (1 − t) of the rows are to be predicted as A predicts them, the others as B does, in expectation as the ensemble of
    both with these weights does, at the cost of one more forward pass. Of more models, every one teaches a share of the
    rows that is its weight. On text that was given, and not written by the models, the teacher's probabilities are
    averaged with the token that does follow, by `TRUE_SHARE`.
    """

    together = False  # whether processes share the weights, so that all of them run all that any of them runs

    def __init__(self, path: Averages):
        super().__init__()
        self._coefficients, self._shares = path.coefficients, path.shares

    def forward(
        self, ids: Tensor, given: Tensor, place: Any, teacher: Tensor | None = None, targets: float | None = None
    ) -> Tensor:
        """Mean cross-entropy per token, in nats, of θ(t) with what it is taught on ids (batch, length).

        `given` (batch) says which rows have true text, `place` is one of the path, `teacher` (batch) the number of the
        end that teaches each row, by default as `teachers` says. Of masked language models and classifiers, ids are
        blocks of `isthmus.eval.targets`, and the mean is over as many `targets` as each process has on average, where
        processes share a batch.
        """
        teacher = teachers(self._shares(place), len(ids)).to(ids.device) if teacher is None else teacher
        taught = self._taught(ids, given, teacher, place)
        own = scores(self.logits(place, ids), ids).float()
        asked = predicted(ids) != IGNORED
        if targets or not bool(asked.all()):
            total = nn.functional.cross_entropy(own[asked], taught[asked], reduction="sum")
            return total / (targets or asked.sum())
        return nn.functional.cross_entropy(own.flatten(0, 1), taught.flatten(0, 1))

    @abstractmethod
    def logits(self, place: Any, ids: Tensor) -> Tensor:
        """What θ(t) gives for token ids (batch, length)."""

    @abstractmethod
    def end_logits(self, number: int, ids: Tensor) -> Tensor:
        """What an endpoint gives, where it began."""

    @abstractmethod
    def now(self, path: P) -> P:
        """A copy of the path as it now is."""

    @torch.no_grad()
    def _taught(self, ids: Tensor, given: Tensor, teacher: Tensor, place: Any) -> Tensor:
        """The probabilities that θ(t) is taught for the tokens to be predicted, (batch, predicted, vocabulary)."""
        following = predicted(ids).clamp_min(0)[..., None]
        taught: list[Tensor] = []
        rows: list[Tensor] = []
        for number, share in enumerate(self._shares(place)):
            own = (teacher == number).nonzero()[:, 0]
            if len(own):
                logits = scores(self.end_logits(number, ids[own]), ids[own]).float()
                taught.append(nn.functional.pad(logits, (0, 0, 0, following.shape[1] - logits.shape[1])))
                rows.append(own)
            elif share and self.together:
                self.end_logits(number, ids[:1])  # others need this process's weights
        truth = TRUE_SHARE * given[:, None, None]
        targets = torch.cat(taught).softmax(-1)
        if not bool((teacher[1:] >= teacher[:-1]).all()):
            targets = targets[torch.cat(rows).argsort()]
        targets.mul_(1 - truth)
        return targets.scatter_add_(-1, following, truth.to(targets.dtype).expand_as(following))


def teachers(shares: Sequence[float], rows: int) -> Tensor:
    """Which end teaches each of so many rows: the first of them its share of them, and so on; int64."""
    cuts = [round(share * rows) for share in accumulate(shares)]
    counts = [stop - start for start, stop in pairwise([0, *cuts[:-1], rows])]
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts).clamp_min(0))


class PathModule(PathLoss):
    """The same with all weights in this process, as pieces of the symmetry table; the endpoints may be `moving`."""

    def __init__(self, path: Averages, config: PretrainedConfig, moving: LearnedAlignment | None = None):
        super().__init__(path)
        self._table: Family = family(config)
        self._model = (empty_model(config),)  # in a tuple: its weights are not ours
        self.names = tuple(self._table.pieces)
        self.moving = moving
        self._ends = len(path.ends)
        for number, state in enumerate(path.ends):
            for index, piece in enumerate(self._table.split(state).values()):
                self.register_buffer(f"end{number}_{index}", piece.detach().clone(), persistent=False)
        self._bends = [
            [nn.Parameter(piece.detach().clone()) for piece in self._table.split(bend).values()] for bend in path.bends
        ]
        self.trained = nn.ParameterList(leaf for bend in self._bends for leaf in bend)

    @override
    def logits(self, place: Any, ids: Tensor) -> Tensor:
        weights = self._coefficients(place)
        begun = [self._end(number) for number in range(self._ends)]
        first, *others = self.moving(begun) if self.moving else begun
        points = [first, *self.leaves(), *others]
        return self._run({name: mix([point[name] for point in points], weights) for name in self.names}, ids)

    @override
    def end_logits(self, number: int, ids: Tensor) -> Tensor:
        return self._run(self._end(number), ids)

    def _end(self, number: int) -> State:
        """The pieces of an endpoint where it began."""
        return {name: getattr(self, f"end{number}_{index}") for index, name in enumerate(self.names)}

    def _run(self, pieces: State, ids: Tensor) -> Tensor:
        model = self._model[0]
        state = with_tied(self._table.join(pieces), model)
        logits: Tensor = functional_call(model, state, (), arguments(model, shown(ids))).logits
        return logits

    def leaves(self) -> list[State]:
        """The parameters of every bend, by the names of their pieces."""
        return [dict(zip(self.names, bend, strict=True)) for bend in self._bends]

    @override
    def now(self, path: P) -> P:
        """The path as it now is, on the CPU."""
        bends = [self._on_cpu(bend) for bend in self.leaves()]
        if self.moving is None:
            return path.moved(path.ends, bends)
        with torch.no_grad():
            ends = self.moving([self._end(number) for number in range(self._ends)])
            return path.moved([self._on_cpu(end) for end in ends], bends)

    def _on_cpu(self, pieces: State) -> State:
        return self._table.join({name: piece.detach().to("cpu", copy=True) for name, piece in pieces.items()})
