"""The parents of a merge, moved to where they were when it was made: weights can only be compared in one gauge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from torch import Tensor

from ..align.alignment import FILE, Alignment, random_ids
from ..align.canonical import canonical
from ..align.families import family
from ..align.methods import Method
from ..align.pipeline import align_states
from ..align.universe import align_all
from ..checkpoint.card import letter
from ..checkpoint.compared import Compared
from ..checkpoint.errors import BadInput
from ..checkpoint.finite import finite_algebra
from ..checkpoint.model import streamed_log_probs
from ..checkpoint.recorded_parents import read_record
from ..checkpoint.reference import parse_reference
from ..checkpoint.rows import ComputedState
from ..eval.progress import Progress

if TYPE_CHECKING:
    from transformers import PretrainedConfig

BY_WEIGHTS = ("permutation", "orthogonal")  # what repeats an alignment from the models alone
SAME_FUNCTION = 0.02  # nats: a B that is read off a float16 merge is off by so much at most


@dataclass(frozen=True)
class Coordinates:
    """The states of the merge, its parents and its base, in one gauge.

    `how` says how the parents came there: ``as they are``, ``repeated`` alignment, ``given`` aligned, or ``recovered``
    from the merge, M = (1 − t) A + t B, so that the position of M on their line is known and not measured.
    """

    states: tuple[Mapping[str, Tensor], ...]
    config: PretrainedConfig
    method: str
    how: str


def recorded_method(record: Mapping[str, Any] | None) -> Method:
    """The alignment under which a merge was made; ``none`` without a report. Raises BadInput for an unknown one."""
    alignment = record.get("alignment") if record is not None and record.get("command") == "merge" else None
    method = alignment.get("method") if isinstance(alignment, Mapping) else "none"
    if method not in get_args(Method):
        raise BadInput(f"isthmus.json names the alignment {str(method)[:40]!r}, which this version does not know")
    return cast("Method", method)


def require_repeatable(record: Mapping[str, Any] | None, parents: Sequence[str]) -> None:
    """Raise BadInput, before weights are opened, where parents cannot be brought to the coordinates of the merge."""
    method = recorded_method(record)
    if method == "none" or record is None:
        return
    recorded = record.get("endpoints")
    if not isinstance(recorded, list) or len(recorded) != len(parents):
        raise BadInput(
            f"the merge was made of {len(recorded) if isinstance(recorded, list) else 0} models under the alignment "
            f"{method}, and {len(parents)} are given: give all of them, in their order"
        )
    if method in BY_WEIGHTS or _point(record) is not None or _are_aligned(parents):
        return
    raise BadInput(
        f"the merge was made under the alignment {method}, which cannot be repeated from its record: give A and B as "
        f"`isthmus align A B --method {method} -o B --reference A` wrote them"
    )


def _point(record: Mapping[str, Any]) -> float | None:
    """The t of a merge on the straight line between two models, None for any other."""
    path, point = record.get("path"), record.get("merge_point")
    changes = record.get("restored_spectrum"), record.get("refitted")
    if not isinstance(path, Mapping) or not isinstance(point, Mapping) or path.get("kind") != "linear":
        return None
    if any(isinstance(change, Mapping) and change.get("kept") for change in changes):
        return None
    t = point.get("t")
    return float(t) if isinstance(t, (int, float)) and 0 < t <= 1 else None


def _are_aligned(parents: Sequence[str]) -> bool:
    """Whether all parents but the first are what `isthmus align` wrote."""
    return all(map(_is_aligned, parents[1:]))


def _is_aligned(parent: str) -> bool:
    record = read_record(parent)
    return record is not None and record.get("command") == "align"


def coordinates(
    compared: Compared, record: Mapping[str, Any] | None, parents: Sequence[str], *, seed: int, progress: Progress
) -> Coordinates:
    """All states in the gauge of the merge, by what its report says of its alignment; with `require_repeatable` true.

    A permutation or an orthogonal alignment is repeated, layer by layer for two models. One that was fitted to text is
    that of parents that `isthmus align` wrote; else, for a merge at t on the straight line, B = (M − (1 − t) A) / t,
    which must be the function of B. A base that was not aligned with the parents is aligned to A, by weights.

    Raises BadInput where that B is another function.
    """
    method = recorded_method(record)
    merge, base = compared.merge.state, compared.base
    own = [parent.state for parent in compared.parents]
    if method == "none" or record is None:
        states = (merge, *own, *([base.state] if base else []))
        return Coordinates(states, compared.merge.config, method, "as they are")
    if compared.contexts:
        raise BadInput(
            "the merge was made under an alignment, of models with different context lengths: that alignment cannot be "
            "repeated"
        )
    progress.stage(f"aligning ({method})")
    config = compared.parents[0].config
    joint = base is not None and record.get("base") is not None
    with finite_algebra(f"{method} alignment"):
        if method in BY_WEIGHTS:
            first = [base.state] if joint and base is not None else []
            aligned = align_all([*first, *own], config, method, stream=len(own) + len(first) == 2, seed=seed)
            moved, how = list(aligned.states), "repeated"
            if joint:
                moved = [*moved[1:], moved[0]]
        elif _are_aligned(parents):
            moved, how = _given(compared, parents, method), "given"
        else:
            t = _point(record)
            assert t is not None, "require_repeatable"
            moved, how = _recovered(compared, t, method), "recovered"
        if base is not None and not joint:
            moved.append(align_states(own[0], base.state, config, "orthogonal", seed=seed).b)
    facts = Alignment(method).config(config)
    return Coordinates((merge, *moved), facts, method, how)


def _given(compared: Compared, parents: Sequence[str], method: Method) -> list[Mapping[str, Tensor]]:
    """The parents that `isthmus align` wrote, with A as it was or as `--reference`, where a merge lies between them:
    without what was learned of the gauge, in the basis of A.
    """
    first, *others = compared.parents
    reference = Alignment(method).reference(first.state, family(first.config))
    if method != "learned":
        return [reference, *(other.state for other in others)]
    table = family(Alignment(method).config(first.config))
    alignments = [Alignment.load(_folder(parent) / FILE) for parent in parents[1:]]
    turned = alignments[0] if _is_aligned(parents[0]) else replace(alignments[0], basis={})
    return [
        alignment.neutral(state, table)
        for alignment, state in zip((turned, *alignments), (reference, *(other.state for other in others)), strict=True)
    ]


def _folder(parent: str) -> Path:
    directory = parse_reference(parent).parts[-1].directory
    assert directory is not None, "it has a report of isthmus align beside it"
    return directory


def _recovered(compared: Compared, t: float, method: Method) -> list[Mapping[str, Tensor]]:
    """A in canonical form, and the B that makes the merge with it."""
    merge, (a, b) = compared.merge, compared.parents
    reference = canonical(a.state, family(a.config))

    def tensor(name: str) -> Tensor:
        return ((merge.state[name].double() - (1 - t) * reference[name].double()) / t).float()

    moved = ComputedState(reference, tensor)
    ids = random_ids(b.config, 0)
    theirs = streamed_log_probs(b.state, b.config, ids)
    error = (streamed_log_probs(moved, Alignment(method).config(b.config), ids) - theirs).abs().max().item()
    if not error <= SAME_FUNCTION:
        raise BadInput(
            f"'{merge.name}' was made under the alignment {method}, and {letter(1)} as its record implies it differs "
            f"from '{b.name}' by {error:.2g} nats: give the models that it was made of, or the aligned ones"
        )
    return [reference, moved]
