"""`isthmus explain`: what a merge did, by layer and kind of matrix, and which layers cost loss."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..align.families import FAMILIES
from ..checkpoint.compared import Compared, open_compared
from ..checkpoint.errors import BadInput
from ..checkpoint.manifest import REPORT, sealed
from ..checkpoint.path_conflicts import Place, model_places
from ..checkpoint.recorded_parents import (
    read_record,
    recorded_base,
    recorded_parents,
    require_layers_in_place,
)
from ..checkpoint.reference import parse_reference
from ..checkpoint.saving import atomic_directory, write_json
from ..eval.corpora import text_places
from ..eval.explanation import Cell
from ..eval.explanation_page import render_explanation
from ..eval.explanation_text import explained
from ..eval.layer_swaps import measured_swaps, swaps
from ..eval.loss import LossMeter
from ..eval.progress import Progress
from ..eval.targets import lengths
from .coordinates import Coordinates, coordinates, require_repeatable
from .job import pick_device
from .observed import cells_of
from .observed import compared as compared_weights
from .plans import ExplainPlan
from .reading import text_of_model
from .record import record_of, versions

PAGE = "explain.html"


@dataclass(frozen=True)
class ExplainedMerge:
    """An explanation, not yet saved: `report` is what goes into isthmus.json, `inputs` what was read."""

    report: dict[str, Any]
    inputs: tuple[Place, ...] = ()

    def save(self, directory: str | Path, *, overwrite: bool = False) -> None:
        """Write isthmus.json and explain.html: whole, or not at all."""
        with atomic_directory(directory, overwrite=overwrite, inputs=self.inputs) as folder:
            (folder / PAGE).write_text(render_explanation(self.report), encoding="utf-8")
            write_json(folder / REPORT, sealed(self.report, folder))


def explain(
    merge: str | Path,
    parents: Sequence[str | Path] = (),
    plan: ExplainPlan = ExplainPlan(),  # noqa: B008
    *,
    base: str | Path | None = None,
    progress: Progress | None = None,
) -> ExplainedMerge:
    """What a merge is to its parents: distances, the share of each, conflicts; with text, what single layers cost.

    `parents` are by default those that the report of a merge by isthmus names, and so is `base`. Parents are moved to
    where they were when the merge was made (`isthmus.merge.coordinates`).

    Raises BadInput, before weights are read, where parents are not found, are too few or given twice, or cannot be
    moved there; IncompatibleModels (`isthmus.checkpoint.compared.open_compared`).
    """
    progress, began = progress or Progress(), time.monotonic()
    progress.stage("checking")
    record = read_record(merge)
    require_layers_in_place(record, parse_reference(merge).name)
    named = [str(parent) for parent in parents] or recorded_parents(merge, record)
    base = base if base is not None or parents else recorded_base(merge, record)
    _require_distinct(str(merge), named, None if base is None else str(base))
    require_repeatable(record, named)
    device = pick_device(plan.device)
    places = model_places([merge, *named, *([base] if base is not None else [])]) + text_places(plan.data)
    compared = open_compared([merge, *named], base, families=FAMILIES, longest=plan.context)
    places += model_places(compared.whole)
    text = _text(plan, compared, progress)
    where = coordinates(compared, record, named, seed=plan.seed, progress=progress)
    cells = cells_of([name for name in where.states[0] if name not in compared.heads], where.config)
    progress.stage("comparing weights", len(cells))
    explanation = compared_weights(where.states, cells, based=base is not None, on_tensor=progress.advance)
    losses = _swaps(where, cells, len(named), text, device, progress) if text else None
    report: dict[str, Any] = {
        "schema": 1,
        "command": "explain",
        "task": compared.merge.schema.task,
        "merge": record_of(compared.merge),
        "endpoints": [record_of(parent) for parent in compared.parents],
        "base": record_of(compared.base) if compared.base else None,
        "alignment": {"method": where.method, "how": where.how},
        "rows": compared.rows,
        "left_out": sorted(compared.heads),
        **explanation.to_dict(),
        "swaps": losses,
        "data": [
            {
                "label": label,
                "select_tokens": int(lengths(select).sum()),
                "report_tokens": int(lengths(report).sum()),
            }
            for label, (select, report) in text.items()
        ],
        "settings": {"seed": plan.seed},
        "seconds": round(time.monotonic() - began, 3),
        "versions": versions(),
    }
    return ExplainedMerge({**report, "sentences": explained(report)}, tuple(places))


def _require_distinct(merge: str, parents: Sequence[str], base: str | None) -> None:
    """Refuse too few parents, one that is given twice, and a merge that is its own parent."""
    if len(parents) < 2:
        raise BadInput("explain compares a merge with its parents: give two or more, isthmus explain M A B")
    seen: dict[object, str] = {_identity(merge): "the merge"}
    for parent in parents:
        place = _identity(parent)
        if place in seen:
            name = parse_reference(parent).name
            what = "the merge and a parent" if seen[place] == "the merge" else "two parents"
            raise BadInput(f"'{name}' is given as {what}: give every model once")
        seen[place] = "a parent"
    if base is not None and _identity(base) in seen:
        raise BadInput(
            f"the base '{parse_reference(base).name}' is also {seen[_identity(base)]}: give what the parents were "
            "trained from, or leave --base out"
        )


def _identity(model: str) -> object:
    """What two references to one model have in common."""
    return tuple(
        (part.file, part.directory.resolve() if part.directory else (part.repo_id, part.revision, part.subfolder))
        for part in parse_reference(model).parts
    )


def _text(plan: ExplainPlan, compared: Compared, progress: Progress) -> dict[str, tuple[Tensor, Tensor]]:
    """The select and the report blocks of every label."""
    if not plan.data:
        return {}
    progress.stage("reading text")
    tokenizer, config = compared.tokenizer_owner.tokenizer(), compared.merge.config
    source = text_of_model(plan.data, tokenizer, config, context=compared.context, seed=plan.seed)
    parts = source.blocks(fit_tokens=0, select_tokens=plan.tokens, report_tokens=plan.tokens)
    return {part.label: (part.select, part.report) for part in parts}


def _swaps(
    where: Coordinates,
    cells: Mapping[str, Cell],
    parents: int,
    text: Mapping[str, tuple[Tensor, Tensor]],
    device: str,
    progress: Progress,
) -> dict[str, Any]:
    wanted = swaps(cells, parents)
    progress.stage("swapping layers", len(wanted) + 1)
    select = {label: parts[0] for label, parts in text.items()}
    report = {label: parts[1] for label, parts in text.items()}
    meter = LossMeter(where.config, select, device=device)
    return measured_swaps(dict(where.states[0]), where.states[1 : parents + 1], wanted, meter, report, progress.advance)
