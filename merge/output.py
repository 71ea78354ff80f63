"""What a merge leaves on disk: the model, isthmus.json, README.md with its figure and report.html, all or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..align.families import FAMILIES
from ..checkpoint.card import FIGURE, render_card
from ..checkpoint.config import schema_of
from ..checkpoint.manifest import REPORT, sealed
from ..checkpoint.redaction import redacted
from ..checkpoint.saving import atomic_directory, save_small_files, write_json
from ..checkpoint.shards import save_weights
from ..checkpoint.source import CARD
from ..checkpoint.trial_loading import preloaded_transformers, require_opens
from ..checkpoint.untrusted_text import shortened
from ..eval.figures import loss_figure, png
from ..eval.report import render_report
from ..eval.summary import loss_table, sentences
from .shown import require_finite_output, require_shown
from .stored import endpoint_digests, write_path

if TYPE_CHECKING:
    from .result import Merge

LONGEST = 20_000  # characters of any text in isthmus.json


def path_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report of a merge as that of the path that it was found on."""
    command = report["reproduce"].replace("isthmus merge", "isthmus path", 1).replace(" -o merged", " -o path", 1)
    return {**report, "command": "path", "reproduce": command}


def save_path(merged: Merge, target: Path, *, overwrite: bool) -> None:
    """Write the path of a merge into `target`, atomically, with isthmus.json and report.html."""
    assert merged.path is not None, "only what has a path is saved as one"
    assert merged.alignment is not None
    report = path_report(redacted(shortened(merged.report, LONGEST)))
    training = {key: value for key, value in report["path"].items() if key != "history"}
    with atomic_directory(target, overwrite=overwrite, inputs=merged.inputs) as directory:
        digests = endpoint_digests(*merged.endpoints)
        write_path(directory, merged.path, merged.alignment, merged.endpoints, digests, training, merged.seen)
        page = render_report(report, merged.spectra, merged.samples)
        (directory / "report.html").write_text(page, encoding="utf-8")
        write_json(directory / REPORT, sealed(report, directory))


def save(merged: Merge, target: Path, *, overwrite: bool, repo_id: str | None = None) -> dict[str, Any]:
    """Write a merge into `target`, atomically, and return its report as it was written: with the hashes of the files.

    The card says that the model is in the repository `repo_id`, if that is known.
    """
    report = redacted(shortened(merged.report, LONGEST))
    name = repo_id.rpartition("/")[2] if repo_id else target.absolute().name
    with atomic_directory(target, overwrite=overwrite, inputs=merged.inputs) as directory:
        shapes = schema_of(merged.facts, target.name, FAMILIES).shapes
        shapes, state = merged.endpoints[0].as_stored(shapes, merged.state)
        with preloaded_transformers(merged.facts):
            digests = save_weights(directory, shapes, state, merged.dtype, maker=merged.maker)
            save_small_files(directory, merged.facts, merged.files, merged.dtype)
        card = render_card(report, name, loss_table(report), sentences(report), repo_id=repo_id)
        (directory / CARD).write_text(card, encoding="utf-8")
        if report["profile"]:
            (directory / FIGURE).write_bytes(png(loss_figure(report)))
        page = render_report(report, merged.spectra, merged.samples)
        (directory / "report.html").write_text(page, encoding="utf-8")
        require_opens(directory, target.name)
        if merged.shown is not None:
            require_shown(directory, merged.shown, target.name)
        elif isinstance(merged.state, dict):  # it was in memory whole
            require_finite_output(directory, target.name)
        report = sealed(report, directory, digests)
        write_json(directory / REPORT, report)
    return report
