"""`isthmus align`: B, moved next to A, as a model on disk."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.align.families import FAMILIES, family
from isthmus.align.pipeline import align_states
from isthmus.checkpoint.config import schema_of
from isthmus.checkpoint.pair import open_pair
from isthmus.checkpoint.saving import (
    atomic_directory,
    require_free,
    save_small_files,
    save_weights,
    write_json,
)
from isthmus.merge.progress import Progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from isthmus.align.alignment import Alignment, Method
    from isthmus.checkpoint.loading import Checkpoint


def align_and_save(
    a: str | Path,
    b: str | Path,
    output: Path,
    *,
    method: Method = "orthogonal",
    reference: Path | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Align B to A and write the moved B, with alignment.safetensors and isthmus.json, to `output`; returns the report.

    `reference` also gets A, in the form that B was moved next to (for ``orthogonal`` the canonical form).

    Raises what `isthmus.align.pipeline.align_states` and `isthmus.checkpoint.saving.atomic_directory` raise.
    """
    progress = progress or Progress()
    began = time.monotonic()
    for target in filter(None, (output, reference)):
        require_free(target, overwrite=overwrite)
    progress.stage("checking")
    pair = open_pair(a, b, families=FAMILIES)
    progress.stage(f"aligning ({method})")
    aligned = align_states(
        pair.first.state,
        pair.second.state,
        pair.first.config,
        method,
        seed=seed,
        on_sweep=lambda *_: progress.advance(),
    )
    first, second = pair.whole
    moved, base, error = aligned.b, aligned.a, aligned.max_log_prob_error
    if pair.growth is not None:
        moved, base = aligned.alignment.apply(second.state, family(second.config)), first.state
        error = aligned.alignment.verify(second.state, moved, second.config, seed=seed)
        if reference is not None:
            base = aligned.alignment.reference(first.state, family(first.config))
    report = {
        "schema": 1,
        "command": "align",
        "endpoints": [{"ref": x.name, "revision": x.revision} for x in (first, second)],
        "method": method,
        "score": aligned.alignment.score,
        "max_log_prob_error": error,
        "seconds": round(time.monotonic() - began, 3),
    }
    progress.stage("saving")
    with atomic_directory(output, overwrite=overwrite) as directory:
        _save_model(directory, moved, aligned.alignment, second, dtype)
        aligned.alignment.save(directory / "alignment.safetensors")
        write_json(directory / "isthmus.json", report)
    if reference is not None:
        with atomic_directory(reference, overwrite=overwrite) as directory:
            _save_model(directory, base, aligned.alignment, first, dtype)
    return report


def _save_model(
    directory: Path,
    state: Mapping[str, Tensor],
    alignment: Alignment,
    source: Checkpoint,
    dtype: torch.dtype | None,
) -> None:
    kept = dtype or source.dtype
    facts = alignment.facts(source.facts)
    save_weights(directory, schema_of(facts, source.name, FAMILIES).shapes, state.__getitem__, kept)
    save_small_files(directory, facts, source.files, kept)
