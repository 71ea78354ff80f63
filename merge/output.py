"""What a merge leaves on disk: the model, isthmus.json, README.md and report.html, all or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.checkpoint.card import render_card
from isthmus.checkpoint.model import schema
from isthmus.checkpoint.saving import atomic_directory, save_small_files, save_weights, write_json

if TYPE_CHECKING:
    from isthmus.merge.pipeline import Merge


def save(merged: Merge, target: Path, *, overwrite: bool) -> None:
    """Write a merge into `target`, atomically."""
    with atomic_directory(target, overwrite=overwrite) as directory:
        names = schema(merged.config).shapes
        save_weights(directory, names, lambda name: merged.state[name], merged.dtype)
        save_small_files(directory, merged.config, merged.files, merged.dtype)
        write_json(directory / "isthmus.json", merged.report)
        (directory / "README.md").write_text(render_card(merged.report, target.absolute().name), encoding="utf-8")
        if merged.curves or merged.spectra:
            from isthmus.eval.report import render_report

            page = render_report(merged.report, merged.curves, merged.spectra, merged.samples)
            (directory / "report.html").write_text(page, encoding="utf-8")
