"""Bends of which every process holds a share, trained with a sharded model (`isthmus.eval.sharded`).

θ(t) is made of the control points row by row, put into the model, and run; the gradient that arrives is scattered over
the processes as the weights are, and that of a bend is the gradient times its coefficient c_i(t). Ends that move are
`isthmus.merge.training.sharded_alignment`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from ...align.families import family
from ...align.muon import Muon
from ...eval.sharded import SharedState, sharded_model
from ...eval.targets import shown
from ..path import Averages, blend
from .optimizers import make_optimizers
from .path_loss import P, PathLoss
from .sharded_alignment import SharedMotion

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import PretrainedConfig

    from ...align.learned import LearnedAlignment
    from ...align.symmetry import Family
    from ..plans import PathTraining


class ShardedPath(PathLoss):
    """The loss at θ(t), with the rows of this process of all endpoints and bends."""

    together = True

    def __init__(self, path: Averages, config: PretrainedConfig, device: str, moving: LearnedAlignment | None = None):
        super().__init__(path)
        self._model = (sharded_model(config, device),)  # in a tuple: its weights are not ours
        model = self._model[0]
        self._ends = [model.shared(end) for end in path.ends]
        self.names = tuple(path.ends[0])
        self._bends = [
            SharedState({name: nn.Parameter(tensor) for name, tensor in model.shared(bend).items()})
            for bend in path.bends
        ]
        self.trained = nn.ParameterList(leaf for bend in self._bends for leaf in bend.values())
        self.moving = moving
        self._motion = (SharedMotion(moving, self._ends, model, family(config)),) if moving else ()

    @override
    def logits(self, place: Any, ids: Tensor) -> Tensor:
        self._model[0].load(self._point(place))
        return self._model[0].logits(shown(ids))

    @torch.no_grad()
    def _point(self, place: Any) -> Mapping[str, Tensor]:
        """θ at a place."""
        first, *others = self._ends
        weights = self._coefficients(place)
        if not self._motion:
            return blend([first, *self._bends, *others], weights)
        ends, bends = self._end_weights(weights), weights[1 : 1 + len(self._bends)]
        share = sum(ends)
        for motion in self._motion if share else ():
            first = motion.averaged([weight / share for weight in ends])
        return blend([first, *self._bends], [share, *bends])

    def _end_weights(self, weights: Sequence[float]) -> list[float]:
        """Those of the control points' weights that are the ends'."""
        return [weights[0], *weights[1 + len(self._bends) :]]

    @override
    def end_logits(self, number: int, ids: Tensor) -> Tensor:
        self._model[0].load(self._ends[number])
        return self._model[0].logits(shown(ids))

    @torch.no_grad()
    def collect(self, place: Any) -> None:
        """Give what is trained its share of the gradient that has arrived at the model, on top of what it has."""
        weights = self._coefficients(place)
        shares, ends = weights[1 : 1 + len(self._bends)], self._end_weights(weights)
        for motion in self._motion if sum(ends) else ():
            with torch.enable_grad():
                motion.lower(ends, {name: self._model[0].parameters[name].grad for name in self.names})
        for name in self.names:
            parameter = self._model[0].parameters[name]
            gradient, parameter.grad = parameter.grad, None
            for share, bend in zip(shares, self._bends, strict=True):
                if share and gradient is not None:
                    leaf = bend[name]
                    leaf.grad = gradient * share if leaf.grad is None else leaf.grad.add_(gradient, alpha=share)
        self._model[0].module.zero_grad()

    def leaves(self) -> list[SharedState]:
        """The parameters of every bend."""
        return self._bends

    def sum_gradients(self) -> None:
        """Give all processes the whole gradient of what every one of them has."""
        for motion in self._motion:
            motion.sum_gradients()

    @override
    def now(self, path: P) -> P:
        return path.moved(self.ends_now(), self.copies())

    def ends_now(self) -> Sequence[SharedState]:
        """The ends as they now are: copies, where they move."""
        for motion in self._motion:
            return motion.now()
        return self._ends

    def copies(self) -> tuple[SharedState, ...]:
        """The bends as they now are."""
        return tuple(SharedState({name: leaf.detach().clone() for name, leaf in bend.items()}) for bend in self._bends)

    def own_rows(self, whole: Tensor) -> Tensor:
        """This process's rows of a tensor that all have whole."""
        return self._model[0].own_rows(whole)


class ShardedMuon(Muon):
    """Muon of parameters that are shared: every matrix is gathered when its turn comes, and each process turns all of
    it and keeps its rows.

    `named` are names of parameters with the parameters; the pieces of a parameter by `table`, as Q, K and V, are turned
    each by itself.
    """

    def __init__(
        self,
        named: Sequence[tuple[str, Tensor]],
        table: Family,
        own_rows: Callable[[Tensor], Tensor],
        **settings: Any,
    ):
        super().__init__([parameter for _, parameter in named], **settings)
        self._names = {id(parameter): name for name, parameter in named}
        self._table, self._own_rows = table, own_rows

    @override
    def move(self, matrix: Any, update: Any, group: Mapping[str, Any]) -> None:
        name, whole = self._names[id(matrix)], update.full_tensor()
        names, steps, stacks, transposed = self._table.parts()[name], [], self._table.stacks, self._table.transposed
        for piece in names:
            stack, part = stacks.get(piece), self._table.pieces[piece].of(whole)
            layout = {} if stack is None else {"stacked": (stack.axis, stack.count)}
            step = torch.zeros_like(part, memory_format=torch.contiguous_format)
            super().move(step, part, {**group, **layout, "transposed": piece in transposed})
            steps.append(step)
        matrix.to_local().add_(self._own_rows(self._table.fused(steps, names)))


def sharded_optimizers(module: ShardedPath, training: PathTraining, table: Family, adamw_lr: float) -> list[Optimizer]:
    """The optimizers of the alignment, where that moves, and of shared bends.

    These are whole parameters, where there is else a leaf of every piece. To single entries that is the same; Muon
    takes the parameters apart.
    """
    matrices = set(table.matrices)
    made = module.moving.optimizers() if module.moving else []
    if not module.leaves():
        return made
    return made + make_optimizers(
        training.optimizer,
        module.leaves(),
        [name for name, pieces in table.parts().items() if matrices.issuperset(pieces)],
        lr=training.peak,
        adamw_lr=adamw_lr,
        weight_decay=training.weight_decay,
        muon=lambda named, **settings: ShardedMuon(named, table, module.own_rows, **settings),
    )
