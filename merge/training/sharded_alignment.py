"""A learned alignment of states that processes share: each has its rows of where these began, and all know the motion.

What a group element does to a tensor may need all of its rows. So pieces that depend on each other are made by one
process after another: they are gathered, moved and averaged by the one whose turn it is, which gives everyone the rows
of the result. The gradient of these rows goes the same way back, to the motion's parameters, and its parts are summed
over all processes before a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...align.canonical import linked
from ...align.learned import LearnedAlignment, Place
from ...eval.sharded import ShardedModel, SharedState

if TYPE_CHECKING:
    from ...align.symmetry import Family, State


class SharedMotion:
    """The `moving` states that began at `begun`, shared like the weights of `model`; `table` is untied."""

    def __init__(self, moving: LearnedAlignment, begun: Sequence[SharedState], model: ShardedModel, table: Family):
        self.moving = moving.to(model.device)
        self._begun, self._model, self._table = begun, model, table
        self._groups = list(_groups(table))

    @torch.no_grad()
    def averaged(self, weights: Sequence[float]) -> SharedState:
        """Σ w_i θ_i of the states where they now are."""
        places, state = self._places(), SharedState()
        for owner, parameters in self._owned():
            whole = self._gathered(parameters, weights, owner)
            made = {} if whole is None else self._made(whole, places, weights)
            for name in parameters:
                state[name] = self._model.distributed(name, made.pop(name, None), owner)
        return state

    def lower(self, weights: Sequence[float], gradients: Mapping[str, Tensor | None]) -> None:
        """Add the gradient of the motion's parameters, given that of such an average; its parts are in processes."""
        places = self._places()
        leaves = [
            Place(*({key: _leaf(value) for key, value in part.items()} for part in _parts(place))) for place in places
        ]
        for owner, parameters in self._owned():
            arrived: dict[str, Tensor] = {}
            for name in parameters:
                gradient: Any = gradients[name]
                if gradient is not None:
                    whole_gradient = gradient.full_tensor()
                    if self._model.is_process(owner):
                        arrived[name] = whole_gradient
            whole = self._gathered(parameters, weights, owner)
            if whole is not None and arrived:
                made = self._made(whole, leaves, weights)
                names = [name for name in arrived if made[name].requires_grad]
                torch.autograd.backward([made[name] for name in names], [arrived[name] for name in names])
        ends, backward = [], []
        for place, leaf in zip(places, leaves, strict=True):
            for there, own in zip(_parts(place), _parts(leaf), strict=True):
                for key, value in there.items():
                    if value.requires_grad and own[key].grad is not None:
                        ends.append(value)
                        backward.append(own[key].grad)
        if ends:
            torch.autograd.backward(ends, backward)

    @torch.no_grad()
    def sum_gradients(self) -> None:
        """Give all processes the whole gradient of the motion's parameters."""
        for parameter in self.moving.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            self._model.sum(parameter.grad)

    def now(self) -> list[SharedState]:
        """Copies of all states where they now are."""
        count = len(self._begun)
        return [self.averaged([float(number == own) for number in range(count)]) for own in range(count)]

    def _places(self) -> list[Place]:
        with torch.autocast(self._model.device.type, enabled=False):
            return self.moving.places()

    def _owned(self) -> Iterator[tuple[int, list[str]]]:
        for number, parameters in enumerate(self._groups):
            yield number % self._model.processes, parameters

    def _gathered(self, parameters: Sequence[str], weights: Sequence[float], owner: int) -> list[State | None] | None:
        """These parameters of every state that has a weight, whole; None for all processes but one."""
        states: list[State | None] = []
        for begun, weight in zip(self._begun, weights, strict=True):
            whole: State = {}
            for name in parameters if weight else ():
                shared: Any = begun[name]
                tensor = shared.full_tensor()
                if self._model.is_process(owner):
                    whole[name] = tensor
            states.append(whole if weight else None)
        return states if self._model.is_process(owner) else None

    def _made(self, whole: Sequence[State | None], places: Sequence[Place], weights: Sequence[float]) -> State:
        """The average of these parameters, of all that have a weight."""
        parts = self._table.parts()
        total: State = {}
        with torch.autocast(self._model.device.type, enabled=False):
            for state, place, weight in zip(whole, places, weights, strict=True):
                if state is None:
                    continue
                pieces = {
                    name: self._table.pieces[name].of(state[parameter])
                    for parameter in state
                    for name in parts[parameter]
                }
                moved = self.moving.moved(pieces, place)
                for name, piece in moved.items():
                    total[name] = weight * piece if name not in total else total[name] + weight * piece
            return {
                parameter: self._table.fused([total[name] for name in parts[parameter]], parts[parameter])
                for parameter in next(state for state in whole if state is not None)
            }


def _groups(table: Family) -> Iterator[list[str]]:
    """The parameters of the model, those together whose pieces depend on each other under a motion and its gauge."""
    parts, together = table.parts(), linked(table)
    left = list(parts)
    while left:
        group, frontier = {left[0]}, [left[0]]
        while frontier:
            names = {other for name in parts[frontier.pop()] for other in together[name]}
            found = {table.pieces[name].parameter for name in names} - group
            group |= found
            frontier += found
        yield [parameter for parameter in left if parameter in group]
        left = [parameter for parameter in left if parameter not in group]


def _leaf(value: Tensor) -> Tensor:
    return value.detach().requires_grad_()


def _parts(place: Place) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    return place.elements, place.gauge
