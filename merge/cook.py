"""One group of models and its text: how it is aligned, which weights it gets, and what all of it loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from ..align.alignment import LOOKING, Method
from ..align.families import family
from ..align.universe import Universe, align_all
from ..checkpoint.config import run_alike
from ..checkpoint.finite import finite_algebra
from ..checkpoint.group import Group
from ..checkpoint.loading import Checkpoint
from ..eval.loss import Losses, LossMeter, ensemble_losses, per_block
from ..eval.text import Blocks
from .candidate import ACTIVATION_TOKENS, looked_at
from .combined import Combined, Known
from .measure import Among, weighed
from .path import Blend
from .progress import Progress
from .recipe import Recipe, Segment, Setting
from .search import SURE
from .soup import Soup
from .soup import WeightSearch as Kitchen
from .statistics import fisher_diagonal, input_moments

if TYPE_CHECKING:
    from transformers import PretrainedConfig

GroupAlign = Literal["auto", "none", "permutation", "orthogonal", "activations", "combined"]
CLIMB: tuple[Method, ...] = ("none", "orthogonal", "combined")


class Cook:
    """One group of models, its text, and what is tried with them."""

    def __init__(
        self,
        recipe: Recipe,
        group: Group,
        text: Sequence[Blocks],
        *,
        device: str,
        seed: int,
        progress: Progress,
    ):
        self.recipe, self.group, self.text = recipe, group, text
        self.device, self.seed, self.progress = device, seed, progress
        self.states = [member.state for member in group.members]
        self.select = {part.label: part.select for part in text}
        self.base = int(recipe.operator.needs_base)

    @property
    def config(self) -> PretrainedConfig:
        """The configuration of all, before alignment."""
        return self.group.members[0].config

    def aligned(self, align: GroupAlign, *, known: bool) -> tuple[Universe, dict[str, float]]:
        """The models next to each other, and the loss of their plain average on the select text by what was tried."""
        if align != "auto":
            return self._universe(align), {}
        best, tried = self._universe("none"), {}
        lowest = self._average(best)
        tried["none"] = lowest.mean
        meter = LossMeter(self.config, self.select, device=self.device)
        members = [meter(state) for state in self.states[self.base :]]
        excess = lowest - weighed(members, [1 / len(members)] * len(members))
        if excess.mean <= SURE * excess.stderr:
            return best, tried
        for method in CLIMB[1:] if known else ():
            other = self._universe(method)
            losses = self._average(other)
            tried[method] = losses.mean
            better = lowest - losses
            if better.mean <= SURE * better.stderr:
                break
            best, lowest = other, losses
        return best, tried

    def _universe(self, method: Method) -> Universe:
        if method != "none":
            self.progress.stage(f"aligning ({method})")
        ids = self._looked_at() if method in LOOKING else None
        with finite_algebra(f"{method} alignment"):
            return align_all(self.states, self.config, method, ids=ids, seed=self.seed, on_match=self.progress.advance)

    def _looked_at(self) -> Tensor:
        """The token ids on which models are looked at, for alignment or for statistics."""
        return looked_at({part.label: part.fit for part in self.text})

    def _average(self, universe: Universe) -> Losses:
        states = universe.states[self.base :]
        self.progress.stage("choosing the alignment", sum(map(len, self.select.values())))
        meter = LossMeter(universe.config, self.select, device=self.device, on_blocks=self.progress.advance)
        return meter(Blend(states, [1 / len(states)] * len(states)))

    def knowledge(self, universe: Universe) -> Known:
        """The statistics that the operator wants, of every model where it lies now."""
        kind = self.recipe.operator.knows
        if kind is None:
            return ()
        ids = self._looked_at()
        self.progress.stage(f"statistics for {self.recipe.operator.name}", len(universe.states) * len(ids))
        if kind == "fisher":
            return [
                fisher_diagonal(
                    state, universe.config, ids, seed=self.seed, device=self.device, on_block=self.progress.advance
                )
                for state in universe.states
            ]
        table = family(universe.config)
        return [
            input_moments(state, universe.config, table, ids, on_block=self.progress.advance)
            for state in universe.states
        ]

    def cooked(
        self, soup: Soup, universe: Universe, values: Mapping[str, Mapping[str, Any]], known: Known
    ) -> tuple[Recipe, dict[str, Any]]:
        """The recipe with the weights that the select text asks for, and what the report says of them."""
        operator, count = self.recipe.operator, len(self.recipe.models)
        meter = LossMeter(universe.config, self.select, device=self.device)

        def measure(weights: tuple[float, ...]) -> Losses:
            self.progress.advance()
            weighed = {name: {**given, "weight": list(weights)} for name, given in values.items()}
            return meter(Combined(operator, universe.states, weighed, seed=self.seed, known=known))

        self.progress.stage(f"choosing weights ({soup})")
        kitchen = Kitchen(measure, count, simplex=not self.base)
        weights = kitchen.greedy() if soup == "greedy" else kitchen.search()
        each = tuple({"weight": Setting.of(weight)} for weight in weights)
        shared = {key: setting for key, setting in self.recipe.shared.items() if key != "weight"}
        own = self.recipe.segments[0].each or ({},) * count
        each = tuple({**mine, **new} for mine, new in zip(own, each, strict=True))
        found = replace(self.recipe, shared=shared, segments=(Segment(each=each),))
        return found, {
            "kind": soup,
            "weights": list(weights),
            "evaluations": len(kitchen.losses),
            "select_loss": kitchen.loss(weights),
            "select_loss_uniform": kitchen.loss(kitchen.uniform()),
        }

    def _own_meter(self, member: Checkpoint) -> LossMeter:
        """What measures a model with its own configuration on the report text, as its users run it."""
        parts = {part.label: part.report for part in self.text}
        return LossMeter(member.config, parts, device=self.device, on_blocks=self.progress.advance)

    def measured(self, recipe: Recipe, universe: Universe, merged: Mapping[str, Tensor]) -> Among:
        """All models, their averages, their ensemble and the merge on the report text."""
        parts = {part.label: part.report for part in self.text}
        states, aligned = self.states[self.base :], universe.states[self.base :]
        moved = bool(universe.alignments) and universe.alignments[0].method != "none"
        passes = len(states) + 2 + moved + self.base
        self.progress.stage("measuring on the report text", passes * sum(map(len, parts.values())))
        meter = LossMeter(self.config, parts, device=self.device, on_blocks=self.progress.advance)
        first, *_ = self.group.members
        members = [
            (meter if run_alike(member, first) else self._own_meter(member)).token_losses(member.state)
            for member in self.group.members[self.base :]
        ]
        even = [1 / len(states)] * len(states)
        naive = meter(Blend(states, even))
        base = meter(self.states[0]) if self.base else None
        meter = LossMeter(universe.config, parts, device=self.device, on_blocks=self.progress.advance)
        average = meter(Blend(aligned, even)) if moved else naive
        losses = tuple(per_block(member) for member in members)
        shares = recipe.plain_weights() or even
        return Among(losses, tuple(shares), base, naive, average, meter(merged), ensemble_losses(members))


def fit_tokens(recipe: Recipe, align: GroupAlign, labels: int) -> int:
    """The tokens of every label that are looked at before anything is chosen."""
    looks = recipe.operator.knows is not None or align == "auto" or align in LOOKING
    return -(-ACTIVATION_TOKENS // labels) if looks else 0
