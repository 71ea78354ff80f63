"""What a merge leaves on disk: the model, isthmus.json, README.md and report.html, all or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.align.families import FAMILIES
from isthmus.checkpoint.card import render_card
from isthmus.checkpoint.config import schema_of
from isthmus.checkpoint.saving import atomic_directory, save_small_files, save_weights, write_json
from isthmus.eval.report import render_report
from isthmus.eval.summary import loss_table, sentences
from isthmus.merge.stored import endpoint_digests, write_path

if TYPE_CHECKING:
    from isthmus.merge.pipeline import Merge


def save_path(merged: Merge, target: Path, *, overwrite: bool) -> None:
    """Write the path of a merge into `target`, atomically, with isthmus.json and report.html."""
    report = {**merged.report, "command": "path"}
    training = {key: value for key, value in report["path"].items() if key != "history"}
    digests = endpoint_digests(*merged.endpoints)
    with atomic_directory(target, overwrite=overwrite) as directory:
        write_path(directory, merged.path, merged.alignment, merged.endpoints, digests, training, merged.seen)
        write_json(directory / "isthmus.json", report)
        page = render_report(report, merged.spectra, merged.samples)
        (directory / "report.html").write_text(page, encoding="utf-8")


def save(merged: Merge, target: Path, *, overwrite: bool) -> None:
    """Write a merge into `target`, atomically."""
    report = merged.report
    with atomic_directory(target, overwrite=overwrite) as directory:
        shapes = schema_of(merged.facts, target.name, FAMILIES).shapes
        save_weights(directory, shapes, merged.state.__getitem__, merged.dtype)
        save_small_files(directory, merged.facts, merged.files, merged.dtype)
        write_json(directory / "isthmus.json", report)
        card = render_card(report, target.absolute().name, loss_table(report), sentences(report))
        (directory / "README.md").write_text(card, encoding="utf-8")
        page = render_report(report, merged.spectra, merged.samples)
        (directory / "report.html").write_text(page, encoding="utf-8")
