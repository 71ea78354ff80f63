"""An adapter on disk: written, and read back as its users will, by peft, before it is published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..align.families import FAMILIES
from ..checkpoint.adapters.adapted_source import AdaptedSource, AdapterFiles
from ..checkpoint.adapters.extracted import ExtractedAdapter
from ..checkpoint.errors import AlignmentError, BadInput
from ..checkpoint.loading import Checkpoint, load
from ..checkpoint.opening import open_source
from ..checkpoint.reference import Reference
from ..checkpoint.serialization import copy_small_files
from ..checkpoint.small_files import is_tokenizer_file

TOLERANCE = 1e-4  # of the largest number of a tensor: what peft computes in another order


def require_plain(base: Checkpoint) -> None:
    """Raise BadInput for a base that is adapted itself."""
    if base.place.adapter is not None:
        raise BadInput(f"'{base.name}' is adapted itself: name a model in one place as the base")


def save_adapter(adapter: ExtractedAdapter, folder: Path, base: Checkpoint, files: Mapping[str, Path]) -> Checkpoint:
    """Write an adapter of a base, with the tokenizer among `files`, and open it as its users will, by peft.

    Raises AlignmentError where peft makes another model of it.
    """
    source = base.source or open_source(base.place)
    require_plain(base)
    # The name of a directory would be looked for on the Hub, or beside whatever program loads the adapter.
    adapter.save(folder, source.reference.repo_id, source.revision)
    copy_small_files(folder, {name: path for name, path in files.items() if is_tokenizer_file(name)})
    adapted = load(
        base.reference,
        families=FAMILIES,
        source=AdaptedSource(source, AdapterFiles(Reference(directory=folder))),
    )
    expected = adapter.state(base.state, adapted.state)
    for name, value in adapted.state.items():
        if name not in expected:
            continue
        difference = float((value - expected[name]).abs().max())
        if not difference <= TOLERANCE * float(expected[name].abs().max().clamp(min=1)):
            raise AlignmentError(
                f"peft makes another '{name}' of the adapter than isthmus (a difference of {difference:.1e}), so "
                "nothing is saved: please report this"
            )
    return adapted
