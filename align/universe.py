"""Any number of states in one universe: aligned to each other, not each to one of them.

The elements g_i maximise Σ_{i<j} Σ_p w_p ⟨g_i·θ_i, g_j·θ_j⟩, which is that of two states (`isthmus.align.matching`) for
every pair, with one element per state: so g_j⁻¹ g_i takes i to j, over whatever way round (cycle-consistent matching:
Crisostomi et al. 2024, arXiv 2405.17897, for permutations; generalised Procrustes: Gower 1975, for rotations). With all
but one fixed, that one is matched to the mean of the others; g_1 stays the identity, as only relative elements count.
Every step increases the objective. It starts from all aligned to the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..checkpoint.errors import AlignmentError, BadInput
from ..checkpoint.model import log_probs, streamed_log_probs
from ..checkpoint.rows import ComputedState
from .activations import cross_correlations
from .alignment import TOLERANCE, Alignment, random_ids
from .canonical import canonical
from .families import family
from .matching import match
from .memory import release_freed
from .methods import LOOKING, Method
from .objective import length
from .pipeline import Aligned, align_states
from .streamed import joined_state, stored_pieces, streamed_canonical
from .symmetry import Elements, Family
from .width import Widening, widening_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ROUNDS = 10
RISE = 1e-3


@dataclass(frozen=True)
class Universe:
    """The states in comparable form and next to each other; the alignment of all but the first; how well they agree.

    `scores` are the objectives after the start and after every round, as mean cosines. Where some neurons of two states
    stay twice, `widening` says which, and `narrow` are the states before. What is made of states `on_disk` is made
    layer by layer.
    """

    states: tuple[Mapping[str, Tensor], ...]
    config: PretrainedConfig
    alignments: tuple[Alignment, ...]
    max_log_prob_error: float
    scores: tuple[float, ...]
    widening: Widening | None = None
    narrow: Universe | None = None
    on_disk: bool = False

    @classmethod
    def of_pair(cls, pair: Aligned) -> Universe:
        """Two aligned states."""
        alignment, error = pair.alignment, pair.max_log_prob_error
        return cls((pair.a, pair.b), pair.config, (alignment,), error, (alignment.score,))

    @classmethod
    def learned(
        cls,
        states: Sequence[Mapping[str, Tensor]],
        config: PretrainedConfig,
        alignments: Sequence[Alignment],
        *,
        stream: bool = False,
        seed: int = 0,
    ) -> Universe:
        """States under `alignments` of all but the first that were learned together; verified, the first one, too.

        With `stream`, only some layers of any are in memory at any time.
        """
        table, (first, *_) = family(config), alignments
        moving = list(zip(alignments, states[1:], strict=True))
        reference: Mapping[str, Tensor]
        moved: Sequence[Mapping[str, Tensor]]
        if stream:
            reference = first.streamed_reference(states[0], table)
            moved = [own.streamed(state, table) for own, state in moving]
        else:
            reference = first.reference(states[0], table)
            moved = [own.apply(state, table) for own, state in moving]
        turning, measure = Alignment("learned", first.basis), streamed_log_probs if stream else log_probs
        errors = [
            own.verify(state, there, config, seed=seed, measure=measure)
            for own, state, there in zip((turning, *alignments), states, (reference, *moved), strict=True)
        ]
        return cls((reference, *moved), first.config(config), tuple(alignments), max(errors), (first.score,))

    def neutral(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A state between these, computing the same, without what was learned of the gauge: comparable by weights."""
        if self.alignment.method != "learned":
            return state
        table = family(self.config)
        return self.alignment.streamed_neutral(state, table) if self.on_disk else self.alignment.neutral(state, table)

    def room_for(self, budget: float) -> Widening:
        """Which neurons of the two states stay twice with a `budget` (`isthmus.align.width`).

        Raises UnsupportedFamily for MLPs that cannot grow alike.
        """
        table = family(self.config)
        a, b = (table.split(state) for state in self.states)
        return widening_of(a, b, table, budget)

    def with_room(self, widening: Widening, *, seed: int = 0) -> Universe:
        """The two states with room for the neurons that stay twice; verified.

        Raises AlignmentError where a state computes something else.
        """
        table = family(self.config)
        a, b = (table.split(state) for state in self.states)
        config = type(self.config).from_dict(widening.facts(self.config.to_dict()))
        wide, ids = family(config), random_ids(config, seed)
        states = tuple(wide.join(pieces) for pieces in widening.pieces(a, b, table))
        error = max(
            (log_probs(there, config, ids) - log_probs(state, self.config, ids)).abs().max().item()
            for state, there in zip(self.states, states, strict=True)
        )
        if not error <= TOLERANCE:
            raise AlignmentError(f"wider MLPs change the model: log-probabilities differ by {error:.2g}")
        error = max(error, self.max_log_prob_error)
        return replace(self, states=states, config=config, max_log_prob_error=error, widening=widening, narrow=self)

    def facts(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The content of config.json of these states, from that of the models as they were."""
        facts = self.alignment.facts(facts)
        return facts if self.widening is None else self.widening.facts(facts)

    def widened_record(self) -> dict[str, Any] | None:
        """What a report says of the room for neurons that stay twice, JSON-ready; None for none."""
        if self.widening is None or self.narrow is None:
            return None
        wide, narrow = (
            sum(math.prod(shape) for shape in family(one.config).schema().shapes.values())
            for one in (self, self.narrow)
        )
        widening = self.widening
        more = round(wide / narrow - 1, 4)
        return {"key": widening.key, "from": widening.hidden, "to": widening.widened, "more_parameters": more}

    @property
    def alignment(self) -> Alignment:
        """The alignment of the second state to the first, which says how all are aligned."""
        return self.alignments[0] if self.alignments else Alignment("none")


def align_all(
    states: Sequence[Mapping[str, Tensor]],
    config: PretrainedConfig,
    method: Method = "orthogonal",
    *,
    ids: Tensor | None = None,
    stream: bool = False,
    seed: int = 0,
    on_match: Callable[[], None] = lambda: None,
) -> Universe:
    """Align N states of one configuration to each other; the first stays, but for its form.

    Two states are aligned by `isthmus.align.pipeline.align_states`, whose `method`, `ids` and `stream` these are. With
    `stream`, of any number of states only some layers are in memory at any time.

    Raises as that does.
    """
    if method == "none" or len(states) == 1:
        return Universe(tuple(states), config, (Alignment("none"),) * (len(states) - 1), 0.0, (0.0,))
    if len(states) == 2:
        a, b = states
        pair = align_states(a, b, config, method, ids=ids, stream=stream, seed=seed, on_pass=lambda *_: on_match())
        return Universe.of_pair(pair)
    if method == "learned":
        raise BadInput("more than two models are aligned by a closed form: take permutation, orthogonal or combined")
    if method in LOOKING and ids is None:
        raise BadInput(f"'{method}' matches what the models compute on text: give token ids")
    if stream and method in LOOKING:
        raise BadInput(f"'{method}' looks at whole models: models that stay on disk take permutation or orthogonal")
    table, alignment = family(config), Alignment(method)
    untied = table.untied()
    pieces: Sequence[Mapping[str, Tensor]] = [
        streamed_canonical(state, table) if stream else untied.split(canonical(state, table)) for state in states
    ]
    release_freed()
    ids = ids if method in LOOKING else None
    problem = _Group(pieces, alignment.acting(untied), method, alignment.config(config), ids, stream)
    elements: list[Elements] = [{}]
    for index in range(1, len(states)):
        elements.append(problem.matched(index, elements, others=[0]))
        on_match()
    scores = [problem.score(elements)]
    for _ in range(ROUNDS):
        for index in range(1, len(states)):
            others = [other for other in range(len(states)) if other != index]
            elements[index] = problem.matched(index, elements, others, start=elements[index])
            on_match()
        scores.append(problem.score(elements))
        if scores[-1] - scores[-2] < RISE * abs(scores[-1]):
            break
    alignments = [Alignment(method, own, scores[-1]) for own in elements]
    moving = list(zip(alignments[1:], states[1:], strict=True))
    moved: list[Mapping[str, Tensor]] = [states[0] if stream else dict(states[0])]
    if alignment.folds and stream:
        moved = [joined_state(own, untied, element) for own, element in zip(pieces, elements, strict=True)]
    elif alignment.folds:
        moved = [untied.join(problem.moved(i, own)) for i, own in enumerate(elements)]
    elif stream:
        stored = ((stored_pieces(state, table), each.elements) for each, state in moving)
        moved += [joined_state(own, table.permuting(), element) for own, element in stored]
    else:
        moved += [each.apply(state, table) for each, state in moving]
    release_freed()
    measure = streamed_log_probs if stream else log_probs
    errors = [
        each.verify(state, there, config, seed=seed, measure=measure)
        for each, state, there in zip(alignments[1:], states[1:], moved[1:], strict=True)
    ]
    return Universe(tuple(moved), alignment.config(config), tuple(alignments[1:]), max(errors), tuple(scores))


@dataclass(frozen=True)
class _Group:
    """Canonical pieces of N states, and the matching of one of them to the mean of others.

    What is made of pieces that are `streamed` is made again whenever it is looked up.
    """

    pieces: Sequence[Mapping[str, Tensor]]
    table: Family
    method: Method
    config: PretrainedConfig
    ids: Tensor | None
    streamed: bool = False

    def moved(self, index: int, elements: Elements) -> Mapping[str, Tensor]:
        """The pieces of one state under its elements."""
        pieces = self.pieces[index]
        if not elements:
            return pieces
        return self._made(lambda name: self.table.act(name, pieces[name], elements))

    def _made(self, piece: Callable[[str], Tensor]) -> Mapping[str, Tensor]:
        made = ComputedState(self.table.pieces, piece)
        return made if self.streamed else dict(made)

    def matched(
        self, index: int, elements: Sequence[Elements], others: Sequence[int], start: Elements | None = None
    ) -> Elements:
        """The elements that match one state to the mean of `others`, as they are moved."""
        first, *rest = near = [self.moved(other, elements[other]) for other in others]
        mean = self._made(lambda name: sum((there[name] for there in rest), first[name]) / len(near))
        target = mean if rest else first
        seen, weigh = self._seen(index, near), self.method != "activations"
        return match(target, self.pieces[index], self.table, activations=seen, weigh=weigh, start=start).elements

    def _seen(self, index: int, near: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor] | None:
        """The correlations of one state's activations with those of others, averaged over these."""
        if self.ids is None:
            return None
        own, join = self.table.join(self.pieces[index]), self.table.join
        first, *others = (cross_correlations(join(there), own, self.config, self.table, self.ids) for there in near)
        return {space: sum((one[space] for one in others), cross) / len(near) for space, cross in first.items()}

    def score(self, elements: Sequence[Elements]) -> float:
        """The mean cosine of all pairs of moved states, over the weights that a space acts on."""
        moved = [self.moved(index, own) for index, own in enumerate(elements)]
        pairs = [(i, j) for i in range(len(moved)) for j in range(i)]
        inner, bound = dict.fromkeys(pairs, 0.0), dict.fromkeys(pairs, 0.0)
        for name in self.table.compared:
            own = [one[name] for one in moved]
            lengths = list(map(length, own))
            for i, j in pairs:
                inner[i, j] += float((own[i] * own[j]).sum())
                bound[i, j] += lengths[i] * lengths[j]
        return sum(inner[pair] / bound[pair] for pair in pairs) / len(pairs)
