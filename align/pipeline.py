"""Two states in, a verified alignment out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..checkpoint.errors import BadInput
from ..checkpoint.inputs import open_inputs
from ..checkpoint.loading import Checkpoint
from ..checkpoint.model import streamed_log_probs
from .activations import cross_correlations
from .alignment import Alignment
from .canonical import canonical
from .families import FAMILIES, family
from .matching import match
from .memory import release_freed
from .methods import LOOKING, Method
from .streamed import joined_state, stored_pieces, streamed_canonical
from .symmetry import Family

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Aligned:
    """The outcome: A in comparable form, B moved next to it, and how."""

    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]
    config: PretrainedConfig
    alignment: Alignment
    max_log_prob_error: float


def align_states(
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    config: PretrainedConfig,
    method: Method = "orthogonal",
    *,
    ids: Tensor | None = None,
    stream: bool = False,
    seed: int = 0,
    on_pass: Callable[[str, int, float], None] = lambda start, number, score: None,
) -> Aligned:
    """Align state B to state A, both of configuration `config`, and verify that B's function did not change.

    ``permutation`` keeps both states' form and tied embeddings; ``orthogonal`` also rotates the residual stream and
    the inside of heads, for which both are brought into canonical form (a plain model, with an untied unembedding).
    ``activations`` rotates alike, matching what both models compute on the token `ids` (blocks, context); ``combined``
    matches that and the weights. With `stream`, for ``permutation`` and ``orthogonal``, only some layers of either are
    in memory at any time, and the aligned states are made when they are looked up.

    Raises BadInput for activations without text, and for ``learned``, which is trained
    (`isthmus.merge.training.fitting.Fitter.learn`); AlignmentError when the aligned model's log-probabilities differ by
    more than rounding (`isthmus.align.alignment.Alignment.verify`); UnsupportedFamily.
    """
    if method == "none":
        return Aligned(a, b, config, Alignment("none"), 0.0)
    table = family(config)
    if method == "learned":
        raise BadInput("an alignment is learned on text: take isthmus.merge, or `isthmus align --method learned`")
    if method in LOOKING and ids is None:
        raise BadInput(f"'{method}' matches what the models compute on text: give token ids")
    if stream:
        return _streamed(a, b, config, table, Alignment(method), seed, on_pass)
    untied, alignment, seen = table.untied(), Alignment(method), None
    pieces_a = untied.split(canonical(a, table))
    release_freed()
    pieces_b = untied.split(canonical(b, table))
    release_freed()
    if ids is not None and method in LOOKING:
        seen = cross_correlations(untied.join(pieces_a), untied.join(pieces_b), alignment.config(config), untied, ids)
    weigh, acting = method != "activations", alignment.acting(untied)
    matching = match(pieces_a, pieces_b, acting, activations=seen, weigh=weigh, on_pass=on_pass)
    alignment = Alignment(method, matching.elements, matching.score)
    if alignment.folds:
        moved, reference = alignment.apply_to_pieces(pieces_b, untied), untied.join(pieces_a)
    else:
        moved, reference = alignment.apply(b, table), dict(a)
    del pieces_a, pieces_b
    release_freed()
    error = alignment.verify(b, moved, config, seed=seed, measure=streamed_log_probs)  # B may still be on disk
    return Aligned(reference, moved, alignment.config(config), alignment, error)


def _streamed(
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    config: PretrainedConfig,
    table: Family,
    alignment: Alignment,
    seed: int,
    on_pass: Callable[[str, int, float], None],
) -> Aligned:
    """The same, layer by layer from where the states are."""
    if alignment.method not in ("permutation", "orthogonal"):
        raise BadInput(
            f"'{alignment.method}' looks at whole models: models that stay on disk take permutation or orthogonal"
        )
    pieces_a, pieces_b = (streamed_canonical(state, table) for state in (a, b))
    matching = match(pieces_a, pieces_b, alignment.acting(table.untied()), on_pass=on_pass)
    alignment = Alignment(alignment.method, matching.elements, matching.score)
    reference: Mapping[str, Tensor] = a
    moved = joined_state(stored_pieces(b, table), table.permuting(), matching.elements)
    if alignment.folds:
        reference = joined_state(pieces_a, table.untied())
        moved = joined_state(pieces_b, table.untied(), matching.elements)
    error = alignment.verify(b, moved, config, seed=seed, measure=streamed_log_probs)
    return Aligned(reference, moved, alignment.config(config), alignment, error)


def align_models(
    a: str | Path | Checkpoint,
    b: str | Path | Checkpoint,
    method: Method = "orthogonal",
    *,
    ids: Tensor | None = None,
    seed: int = 0,
    on_pass: Callable[[str, int, float], None] = lambda start, number, score: None,
) -> Aligned:
    """Align checkpoint B to checkpoint A (`align_states`), after checking that they fit.

    Raises IncompatibleModels, before any weight is read, when they do not; and what `align_states` raises.
    """
    first, second = open_inputs((a, b), families=FAMILIES, narrow=True).members
    return align_states(first.state, second.state, first.config, method, ids=ids, seed=seed, on_pass=on_pass)
