"""An alignment: one group element per space, taking B to A. It applies, inverts, composes, saves, verifies itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..checkpoint.config import DEFAULT_CONTEXT, context_length, untied_facts
from ..checkpoint.errors import AlignmentError, BadInput
from ..checkpoint.model import log_probs, streamed_log_probs
from ..checkpoint.rows import ComputedState
from ..checkpoint.size_limits import require_regular_file
from ..checkpoint.strict_json import parse_object
from .canonical import canonical
from .families import family
from .gauge import neutral, regauge
from .methods import KEEP_FORM, Method
from .streamed import joined_state, streamed_canonical, streamed_neutral, streamed_regauged
from .symmetry import Elements, Family, State

if TYPE_CHECKING:
    from transformers import PretrainedConfig

TOLERANCE = 1e-4
ROUNDINGS = 4.0  # times what rounding to float32 changes in a model itself, where that is more
MOST = 1e-2  # nats, and no more than this
FILE = "alignment.safetensors"  # what it is called beside a model or a path
_GAUGE, _BASIS = "gauge/", "basis/"


@dataclass(frozen=True)
class Alignment:
    """One group element per space (`isthmus.align.groups` says which tensors), taking B to A.

    `score` is the objective of the matching that found it, 1 for an exact copy (`isthmus.align.matching`). Applying an
    alignment brings a state into canonical form first; ``permutation`` and ``none`` keep its form. A ``learned`` one
    then moves the gauge of norms and value biases to `gauge` (`isthmus.align.gauge`), in the `basis` of the residual
    stream to which its elements take B, and that of A to A: elements of the stream's space alone.
    """

    method: Method
    elements: Elements = field(default_factory=dict)
    score: float = 0.0
    gauge: Mapping[str, Tensor] = field(default_factory=dict)
    basis: Elements = field(default_factory=dict)

    @property
    def folds(self) -> bool:
        """Whether it needs canonical states, whose unembedding is untied."""
        return self.method not in KEEP_FORM

    def acting(self, table: Family) -> Family:
        """The table with the groups whose elements these are: permutations where it keeps a state's form."""
        return table if self.folds else table.permuting()

    def config(self, config: PretrainedConfig) -> PretrainedConfig:
        """The configuration of an aligned model: untied where the canonical form unties."""
        if not self.folds:
            return config
        return type(config).from_dict(config.to_dict() | {"tie_word_embeddings": False})

    def facts(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """As `config`, for the content of config.json."""
        return untied_facts(facts) if self.folds else dict(facts)

    def reference(self, state: Mapping[str, Tensor], table: Family) -> State:
        """A, in the form in which B will be comparable: canonical and in the basis, or as it is."""
        if not self.folds:
            return dict(state)
        return turned(canonical(state, table), table.untied(), self.basis)

    def apply(self, state: Mapping[str, Tensor], table: Family) -> State:
        """B, moved next to A: the same function, other weights."""
        if self.folds:
            state, table = canonical(state, table), table.untied()
        return self.apply_to_pieces(table.split(state), table)

    def apply_to_pieces(self, pieces: State, table: Family) -> State:
        """As `apply`, for the pieces of a state that is in canonical form where that is needed.

        The pieces are taken out of the dictionary one by one, so that a large model is not held twice.
        """
        table = self.acting(table)
        moved = {name: table.act(name, pieces.pop(name), self.elements) for name in table.pieces}
        return table.join(regauge(moved, table, self.gauge) if self.gauge else moved)

    def streamed(self, state: Mapping[str, Tensor], table: Family) -> ComputedState:
        """As `apply`, for one that `folds`, layer by layer from where the state is."""
        pieces, untied = streamed_canonical(state, table), table.untied()
        if not self.gauge:
            return joined_state(pieces, untied, self.elements)
        return joined_state(streamed_regauged(pieces, untied, self.elements, self.gauge), untied)

    def streamed_reference(self, state: Mapping[str, Tensor], table: Family) -> ComputedState:
        """As `reference`, for one that `folds`, layer by layer."""
        return joined_state(streamed_canonical(state, table), table.untied(), self.basis)

    def in_basis(self, basis: Elements, table: Family) -> Alignment:
        """The same alignment of states that are then turned to a `basis` of the stream; without one so far."""
        assert not self.basis
        turned = table.compose(self.elements, table.identity() | basis)
        return replace(self, elements=turned, basis=basis)

    def without_gauge(self, table: Family) -> Alignment:
        """The same alignment with B in canonical form, next to a canonical A."""
        elements = self.elements
        if self.basis:
            elements = table.compose(elements, table.identity() | table.inverse(self.basis))
        return Alignment(self.method, elements, self.score)

    def neutral(self, state: Mapping[str, Tensor], table: Family) -> State:
        """A state on the way from A to B as it would be without a gauge: canonical, its heads `balanced`, and in the
        basis of A; function unchanged.
        """
        untied = table.untied()
        return turned(neutral(state, untied), untied, untied.inverse(self.basis))

    def streamed_neutral(self, state: Mapping[str, Tensor], table: Family) -> ComputedState:
        """As `neutral`, layer by layer."""
        untied = table.untied()
        return streamed_neutral(state, untied, untied.inverse(self.basis))

    def inverse(self, table: Family) -> Alignment:
        """The alignment that takes A to B; in canonical form, so without a gauge."""
        elements = self.without_gauge(table).elements
        return Alignment(self.method, self.acting(table).inverse(elements), self.score)

    def compose(self, then: Alignment, table: Family) -> Alignment:
        """This alignment followed by another: C to B, then B to A, is C to A; with gauge and basis of the other.

        Raises BadInput when the two are of different methods.
        """
        if self.method != then.method:
            raise BadInput(f"only alignments of one method compose: these are {self.method} and {then.method}")
        first = self.without_gauge(table).elements
        return replace(then, elements=self.acting(table).compose(first, then.elements))

    def save(self, path: str | Path) -> None:
        """Write to one safetensors file."""
        facts = {"method": self.method, "score": self.score}
        tensors = {name: element.contiguous() for name, element in self.elements.items()}
        tensors |= {_GAUGE + name: vector.contiguous() for name, vector in self.gauge.items()}
        tensors |= {_BASIS + name: element.contiguous() for name, element in self.basis.items()}
        content = save(tensors, metadata={"isthmus.alignment": json.dumps(facts)})
        Path(path).write_bytes(content)  # save_file would make it unreadable for others

    @classmethod
    def load(cls, path: str | Path) -> Alignment:
        """Read what `save` wrote. Raises BadInput for any other file."""
        try:
            require_regular_file(Path(path), Path(path).parent.name)
            with safe_open(path, framework="pt") as file:
                facts = parse_object((file.metadata() or {})["isthmus.alignment"], "its metadata")
                method, score = facts["method"], float(facts["score"])
                if method not in get_args(Method):
                    raise ValueError("no such method")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except Exception as error:
            raise BadInput(
                f"'{Path(path).name}' is not an alignment saved by isthmus ({type(error).__name__})"
            ) from None
        parts: dict[str, dict[str, Tensor]] = {_GAUGE: {}, _BASIS: {}, "": {}}
        for name, tensor in tensors.items():
            prefix = next(prefix for prefix in parts if name.startswith(prefix))
            parts[prefix][name.removeprefix(prefix)] = tensor
        return cls(method, parts[""], score, parts[_GAUGE], parts[_BASIS])

    def verify(
        self,
        state: Mapping[str, Tensor],
        aligned: Mapping[str, Tensor],
        config: PretrainedConfig,
        *,
        tolerance: float = TOLERANCE,
        seed: int = 0,
        measure: Callable[..., Tensor] = log_probs,
    ) -> float:
        """Largest absolute difference of log-probabilities between `state` and `aligned` on random token ids, in nats.

        `measure` computes them (`isthmus.checkpoint.model`).

        Raises AlignmentError when it exceeds `tolerance`, and what is `rounding` (or is NaN), naming the space, hence
        the layer, that changes the function.
        """
        ids = random_ids(config, seed)
        expected = measure(state, config, ids)

        def error_of(moved: Mapping[str, Tensor]) -> float:
            return (measure(moved, self.config(config), ids) - expected).abs().max().item()

        error = error_of(aligned)
        if error <= tolerance:
            return error
        tolerance = max(tolerance, rounding(state, config, ids, expected))
        if error <= tolerance:
            return error
        table = family(config)
        culprit = "no single space: they only do together"
        if not error_of(self.reference(state, table)) <= tolerance:
            culprit = "the canonical form itself"
        else:
            for space, element in self.elements.items():
                if not error_of(Alignment(self.method, {space: element}).apply(state, table)) <= tolerance:
                    culprit = f"the element of '{space}'"
                    break
        raise AlignmentError(
            f"the alignment changes the model: log-probabilities differ by {error:.2g} (allowed {tolerance:.0e}); "
            f"found in {culprit}"
        )


def turned(state: Mapping[str, Tensor], table: Family, basis: Elements) -> State:
    """A canonical, untied state in another `basis` of the residual stream, the element of its space."""
    if not basis:
        return dict(state)
    return table.join({name: table.act(name, piece, basis) for name, piece in table.split(state).items()})


def rounding(state: Mapping[str, Tensor], config: PretrainedConfig, ids: Tensor, expected: Tensor) -> float:
    """How far log-probabilities may differ, in nats, for two states that are one function to rounding.

    That is `ROUNDINGS` times the largest difference between those of a state in float32, `expected`, and in float64:
    a deep model rounds more than a shallow one. At most `MOST`; a wrong element changes them by nats.
    """
    exact = streamed_log_probs(state, config, ids, torch.float64)  # no copy of the weights in float64
    return min(MOST, ROUNDINGS * (exact - expected).abs().max().item())


def random_ids(config: PretrainedConfig, seed: int) -> Tensor:
    """The token ids (2, at most 64) on which two states of one function are compared."""
    length = min(64, context_length(config) or DEFAULT_CONTEXT)
    return torch.randint(config.vocab_size, (2, length), generator=torch.Generator().manual_seed(seed))
