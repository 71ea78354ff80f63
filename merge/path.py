"""Paths between two states: θ(0) = θ_A, θ(1) = θ_B, exactly; and paths on disk.

A path is a sum Σ c_i(t) θ_i over control points: the endpoints, and the bends between them.

- ``linear``: (1 − t) θ_A + t θ_B.
- ``polychain``: straight segments through all control points, evenly spaced in t.
- ``bezier``: Σ C(n, i) t^i (1 − t)^(n − i) θ_i, a curve that is drawn towards its n − 1 bends.

On disk are bends, alignment and text seen, each as safetensors, and path.json, which says whose path it is. The
endpoints are not stored again: they are made of the two checkpoints and the alignment, and known by their digests. So
is the text that the bends were trained on, by hashes, so that no loss is measured on it later.

Garipov et al. 2018 (arXiv 1802.10026).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from typing_extensions import override

from ..align.alignment import FILE as ALIGNMENT
from ..align.alignment import Alignment
from ..align.families import family
from ..checkpoint.errors import BadInput, CorruptCheckpoint, one_line
from ..checkpoint.finite import require_writable
from ..checkpoint.path_conflicts import Place
from ..checkpoint.rows import ComputedState, in_blocks
from ..checkpoint.saving import write_json
from ..checkpoint.serialization import digest
from ..checkpoint.size_limits import DOCUMENT, read_bytes, require_regular_file
from ..checkpoint.strict_json import parse_object
from ..eval.text_hashes import TextHashes

if TYPE_CHECKING:
    from ..align.symmetry import State
    from ..checkpoint.loading import Checkpoint

Kind = Literal["linear", "polychain", "bezier"]

FILE = "path.json"
STRATA = 8
# What is read of the record of a training, where it is there.
RECORD: dict[str, type | tuple[type, ...]] = {
    "kind": str,
    "bends": int,
    "steps": int,
    "best_step": int,
    "optimizer": str,
    "diverged_at": (int, type(None)),
}


def coefficients(kind: Kind, t: float, points: int) -> tuple[float, ...]:
    """The weights c_i(t) of `points` control points; they are not negative and sum to 1."""
    last = points - 1
    if kind == "bezier":
        return tuple(math.comb(last, i) * t**i * (1 - t) ** (last - i) for i in range(points))
    segment = min(int(t * last), last - 1)
    along = t * last - segment
    return tuple({segment: 1 - along, segment + 1: along}.get(i, 0.0) for i in range(points))


def mix(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ w_i x_i, for weights that sum to 1; a tensor that has all the weight is given as it is."""
    used = [(value, weight) for value, weight in zip(values, weights, strict=True) if weight]
    if len(used) == 1:
        return used[0][0]
    if len(used) == 2:
        return torch.lerp(used[0][0], used[1][0], used[1][1])
    return torch.stack([weight * value for value, weight in used]).sum(0)


def blend(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> ComputedState:
    """Σ w_i θ_i, tensor by tensor when looked up, so that states on disk are never in memory whole."""
    used = [index for index, weight in enumerate(weights) if weight]
    parts, shares = [states[index] for index in used], [weights[index] for index in used]

    def blocks(name: str) -> Iterator[Tensor]:
        for rows in zip(*(in_blocks(part, name) for part in parts), strict=True):
            yield mix(rows, shares)

    return ComputedState(parts[0], lambda name: mix([part[name] for part in parts], shares), blocks)


def stratified(count: int, span: tuple[float, float], generator: torch.Generator) -> list[float]:
    """So many random t in `span`: `STRATA` consecutive ones cover equal parts of it in a random order."""
    strata = torch.cat([torch.randperm(STRATA, generator=generator) for _ in range(-(-count // STRATA))])[:count]
    first, last = span
    return (first + (last - first) * (strata + torch.rand(count, generator=generator)) / STRATA).tolist()


class Averages(ABC):
    """Weighted averages of control points: `ends`, which stay what they compute, and trained `bends` between them."""

    bends: tuple[Mapping[str, Tensor], ...]

    @property
    @abstractmethod
    def ends(self) -> tuple[Mapping[str, Tensor], ...]:
        """The first and the last control points."""

    @property
    def points(self) -> tuple[Mapping[str, Tensor], ...]:
        """All control points, in order: the bends after the first end."""
        first, *others = self.ends
        return (first, *self.bends, *others)

    def __call__(self, place: Any) -> ComputedState:
        """θ at a place: Σ c_i θ_i."""
        return blend(self.points, self.coefficients(place))

    @abstractmethod
    def coefficients(self, place: Any) -> tuple[float, ...]:
        """The weights c_i of the control points."""

    @abstractmethod
    def shares(self, place: Any) -> tuple[float, ...]:
        """The weights of the ends in what θ stands for."""

    @abstractmethod
    def places(self, count: int, span: tuple[float, float], generator: torch.Generator) -> list[Any]:
        """So many random places to train at, evenly spread, with t in the `span` where there is one."""

    @abstractmethod
    def moved(self, ends: Sequence[Mapping[str, Tensor]], bends: Sequence[Mapping[str, Tensor]]) -> Self:
        """The same with other control points."""


@dataclass(frozen=True)
class WeightPath(Averages):
    """A path from `a` to `b` with any number of `bends`; called with t, it gives θ(t), a state."""

    kind: Kind
    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]
    bends: tuple[Mapping[str, Tensor], ...] = ()

    @classmethod
    def line(cls, ends: Sequence[Mapping[str, Tensor]]) -> WeightPath:
        """The straight line between two states."""
        a, b = ends
        return cls("linear", a, b)

    @property
    @override
    def ends(self) -> tuple[Mapping[str, Tensor], ...]:
        return self.a, self.b

    def __call__(self, t: float) -> ComputedState:
        """θ(t)."""
        return super().__call__(t)

    @override
    def coefficients(self, place: float) -> tuple[float, ...]:
        return coefficients(self.kind, place, len(self.bends) + 2)

    @override
    def shares(self, place: float) -> tuple[float, float]:
        return 1 - place, place

    @override
    def places(self, count: int, span: tuple[float, float], generator: torch.Generator) -> list[float]:
        return stratified(count, span, generator)

    @override
    def moved(self, ends: Sequence[Mapping[str, Tensor]], bends: Sequence[Mapping[str, Tensor]]) -> Self:
        a, b = ends
        return replace(self, a=a, b=b, bends=tuple(bends))


@dataclass(frozen=True)
class Simplex(Averages):
    """All weighted averages of some states; called with their weights, which sum to 1, it gives one."""

    states: tuple[Mapping[str, Tensor], ...]
    bends: tuple[Mapping[str, Tensor], ...] = field(default=(), init=False)

    @property
    @override
    def ends(self) -> tuple[Mapping[str, Tensor], ...]:
        return self.states

    @override
    def coefficients(self, place: Sequence[float]) -> tuple[float, ...]:
        return tuple(place)

    @override
    def shares(self, place: Sequence[float]) -> tuple[float, ...]:
        return tuple(place)

    @override
    def places(self, count: int, span: tuple[float, float], generator: torch.Generator) -> list[tuple[float, ...]]:
        """Weights evenly spread over the simplex, and then moved half the way to its centre."""
        models = len(self.states)
        exponential = -torch.rand(count, models, generator=generator, dtype=torch.float64).clamp_min(1e-12).log()
        weights = (exponential / exponential.sum(1, keepdim=True) + 1 / models) / 2
        return [tuple(row) for row in weights.tolist()]

    @override
    def moved(self, ends: Sequence[Mapping[str, Tensor]], bends: Sequence[Mapping[str, Tensor]]) -> Self:
        return replace(self, states=tuple(ends))


@dataclass(frozen=True)
class Star(Averages):
    """Straight arms from some states to a trained centre, `bends`, which they share; called with (arm, t), it gives
    (1 − t) θ_arm + t centre.

    The centre stands for the average of all models with their `weights`, which sum to 1. The star of two states with
    equal weights is their ``polychain`` of one bend. Stars of solutions: Sonthalia et al. 2025 (arXiv 2403.07968).
    """

    states: tuple[Mapping[str, Tensor], ...]
    bends: tuple[Mapping[str, Tensor], ...]
    weights: tuple[float, ...]

    @property
    @override
    def ends(self) -> tuple[Mapping[str, Tensor], ...]:
        return self.states

    @property
    def centre(self) -> Mapping[str, Tensor]:
        """The state that all arms lead to."""
        return self.bends[0]

    @override
    def coefficients(self, place: tuple[int, float]) -> tuple[float, ...]:
        arm, t = place
        first, *others = (1 - t if number == arm else 0.0 for number in range(len(self.states)))
        return (first, t, *others)

    @override
    def shares(self, place: tuple[int, float]) -> tuple[float, ...]:
        arm, t = place
        return tuple((1 - t) * (number == arm) + t * weight for number, weight in enumerate(self.weights))

    @override
    def places(self, count: int, span: tuple[float, float], generator: torch.Generator) -> list[tuple[int, float]]:
        """Every arm as often as the others, in a random order; t as on a path."""
        rounds = -(-count // len(self.states))
        arms = torch.cat([torch.randperm(len(self.states), generator=generator) for _ in range(rounds)])
        return list(zip(arms[:count].tolist(), stratified(count, span, generator), strict=True))

    @override
    def moved(self, ends: Sequence[Mapping[str, Tensor]], bends: Sequence[Mapping[str, Tensor]]) -> Self:
        return replace(self, states=tuple(ends), bends=tuple(bends))


@dataclass(frozen=True)
class SavedPath:
    """A path read back: with its endpoints aligned, the alignment, how its bends were trained, and on what text."""

    path: WeightPath
    alignment: Alignment
    training: dict[str, Any]
    seen: TextHashes

    def record(self) -> dict[str, Any]:
        """The record of the training, whole where the file left something out."""
        usual = {"kind": self.path.kind, "steps": 0, "best_step": 0, "optimizer": "unknown", "diverged_at": None}
        return {**usual, **self.training, "bends": len(self.path.bends)}


def path_places(path: object) -> list[Place]:
    """Where a stored path is, for a `path` that is a directory."""
    return [Place.of("the path", path)] if isinstance(path, Path) else []


def write_bends(file: Path, bends: Sequence[State]) -> None:
    """All bends in one safetensors file; names are ``<number>/<tensor>``."""
    tensors = {f"{i}/{name}": value.contiguous() for i, bend in enumerate(bends) for name, value in bend.items()}
    file.write_bytes(save(tensors))  # save_file would make it unreadable for others


def read_bends(file: Path) -> tuple[dict[str, Tensor], ...]:
    """What `write_bends` wrote."""
    require_regular_file(file, file.parent.name)
    bends: dict[int, dict[str, Tensor]] = {}
    with safe_open(file, framework="pt") as tensors:
        for key in tensors.keys():  # noqa: SIM118
            number, _, name = key.partition("/")
            bends.setdefault(int(number), {})[name] = tensors.get_tensor(key)
    return tuple(bends[number] for number in sorted(bends))


def endpoint_digests(models: Sequence[Checkpoint]) -> list[str]:
    """The digests of the endpoints, as they were before alignment."""
    return [digest(model.state) for model in models]


def write_path(
    directory: Path,
    path: WeightPath,
    alignment: Alignment,
    endpoints: Sequence[Checkpoint],
    training: dict[str, Any],
    seen: TextHashes,
) -> None:
    """Write a path into a directory that is there."""
    for number, bend in enumerate(path.bends, start=1):
        require_writable(bend, torch.float32, f"bend {number} of the path")
    write_bends(directory / "bends.safetensors", [{n: b[n] for n in b} for b in path.bends])
    alignment.save(directory / ALIGNMENT)  # its map was verified
    seen.save(directory / "seen.safetensors")
    digests = zip(endpoints, endpoint_digests(endpoints), strict=True)
    ends = [{"ref": end.name, "revision": end.revision, "sha256": sha} for end, sha in digests]
    write_json(directory / FILE, {"schema": 1, "kind": path.kind, "endpoints": ends, "training": training})


def read_path(directory: Path, first: Checkpoint, second: Checkpoint) -> SavedPath:
    """Read a path between two checkpoints.

    Raises BadInput when the directory holds no path, or one between other models.
    """
    try:
        facts = parse_object(read_bytes(directory / FILE, DOCUMENT, f"'{FILE}' in '{directory.name}'"), f"'{FILE}'")
        ends = facts["endpoints"]
        hashes, refs = [end["sha256"] for end in ends], [str(end["ref"]) for end in ends]
        kind, training = facts["kind"], facts["training"]
        if kind not in get_args(Kind) or not _is_record(training):
            raise ValueError("no kind of path, or no record of its training")
        bends = read_bends(directory / "bends.safetensors")
        alignment = Alignment.load(directory / ALIGNMENT)
        seen = TextHashes.load(directory / "seen.safetensors")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, CorruptCheckpoint):
        raise BadInput(f"'{directory.name}' holds no path saved by isthmus, or a damaged one") from None
    given = endpoint_digests((first, second))
    if hashes != given:
        names = " and ".join(f"'{ref}'" for ref in refs)
        order = ": give them in that order" if hashes == given[::-1] else ", whose weights are not those of these two"
        raise BadInput(f"the path in '{directory.name}' leads from {names}{order}")
    a, b = first.state, second.state
    if alignment.method != "none":
        table = family(first.config)
        try:
            a, b = alignment.reference(a, table), alignment.apply(b, table)
        except (KeyError, IndexError, ValueError, TypeError, RuntimeError) as error:
            raise BadInput(
                f"the alignment in '{directory.name}' does not fit these models ({one_line(error)}): train the path "
                "again"
            ) from None
    if any(bend.keys() != a.keys() or any(bend[n].shape != a[n].shape for n in bend) for bend in bends):
        raise BadInput(f"the bends in '{directory.name}' do not have the tensors of their endpoints: train them again")
    if any(not (bend[n].is_floating_point() and torch.isfinite(bend[n]).all()) for bend in bends for n in bend):
        raise BadInput(f"the bends in '{directory.name}' hold NaN or Inf: train them again")
    return SavedPath(WeightPath(kind, a, b, bends), alignment, training, seen)


def _is_record(training: object) -> bool:
    return isinstance(training, dict) and all(
        isinstance(training[key], kinds) for key, kinds in RECORD.items() if key in training
    )
