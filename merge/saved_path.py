"""Paths on disk.

There are bends, alignment and text seen, each as safetensors, and path.json, which says whose path it is. The endpoints
are not stored again: they are made of the two checkpoints and the alignment, and known by their digests. So is the text
that the bends were trained on, by hashes, so that no loss is measured on it later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..align.alignment import FILE as ALIGNMENT
from ..align.alignment import Alignment
from ..align.families import family
from ..checkpoint.errors import BadInput, CorruptCheckpoint, one_line
from ..checkpoint.finite import require_writable
from ..checkpoint.path_conflicts import Place
from ..checkpoint.rows import ComputedState
from ..checkpoint.saving import write_json
from ..checkpoint.serialization import digest, save_tensors
from ..checkpoint.size_limits import DOCUMENT, read_bytes, require_regular_file
from ..checkpoint.strict_json import parse_object
from ..eval.text_hashes import TextHashes

if TYPE_CHECKING:
    from ..checkpoint.loading import Checkpoint

from .path import Kind, WeightPath

FILE = "path.json"
# What is read of the record of a training, where it is there.
RECORD: dict[str, type | tuple[type, ...]] = {
    "kind": str,
    "bends": int,
    "steps": int,
    "best_step": int,
    "optimizer": str,
    "diverged_at": (int, type(None)),
}


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


def write_bends(file: Path, bends: Sequence[Mapping[str, Tensor]]) -> None:
    """All bends in one safetensors file, float32, tensor by tensor; names are ``<number>/<tensor>``."""
    places = {f"{i}/{name}": (bend, name) for i, bend in enumerate(bends) for name in bend}
    shapes = {place: tuple(bend[name].shape) for place, (bend, name) in places.items()}

    def tensor(place: str) -> Tensor:
        bend, name = places[place]
        return bend[name]

    save_tensors(file, shapes, ComputedState(places, tensor), torch.float32, maker="a bend of the path")


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
    write_bends(directory / "bends.safetensors", path.bends)
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
