"""`isthmus extract`: a fine-tune as an adapter of its base, and what that loses."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ..align.families import FAMILIES
from ..checkpoint.adapters.extracted import ExtractedAdapter
from ..checkpoint.card import render_adapter_card
from ..checkpoint.checks.repository import derived_licence
from ..checkpoint.errors import BadInput
from ..checkpoint.inputs import Inputs, open_inputs
from ..checkpoint.loading import Checkpoint
from ..checkpoint.manifest import REPORT, sealed
from ..checkpoint.path_conflicts import model_places
from ..checkpoint.saving import atomic_directory, write_json
from ..checkpoint.source import CARD
from ..eval.corpora import text_places
from ..eval.loss import Losses, LossMeter
from ..eval.progress import Progress
from .job import pick_device
from .measured import losses_json
from .options import unusual
from .plans import ExtractPlan
from .reading import text_of_model
from .record import record_of, rows_added, versions
from .reproduce import public_reference, public_text
from .saved_adapter import require_plain, save_adapter


def extract(
    model: str | Path | Checkpoint,
    base: str | Path | Checkpoint,
    output: str | Path,
    plan: ExtractPlan = ExtractPlan(),  # noqa: B008
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write what a model is more than its base as a LoRA that peft loads, to `output`; returns the report.

    Linear maps go in by the largest singular values of what they differ by; embeddings, output matrices, norms and
    biases whole, where they differ. The files are read back, and what they make of the base is what is measured.

    Raises what `isthmus.checkpoint.inputs.open_inputs` and `isthmus.checkpoint.saving.atomic_directory` raise; BadInput
    for a model that is its base, or without the package peft.
    """
    progress, began = progress or Progress(), time.monotonic()
    places = [*model_places((base, model)), *text_places(plan.data)]
    progress.stage("checking")
    inputs = open_inputs((base, model), families=FAMILIES, narrow=True, longest=plan.context, tokenizer_of=str(model))
    progress.findings(inputs.findings)
    if inputs.contexts is not None:
        raise BadInput(
            "an adapter cannot add positions, and these have different context lengths: extract from a base of the same"
        )
    places += model_places(inputs.whole)
    output = Path(output)
    under, tuned = inputs.whole
    if inputs.growth is not None and inputs.growth.owner == 0 and inputs.growth.total > inputs.growth.shared:
        raise BadInput(
            f"'{under.name}' has more rows of the vocabulary than '{tuned.name}': give the base it came from"
        )
    require_plain(under)
    blocks = _blocks(plan, inputs, tuned, progress)
    device = pick_device(plan.device)
    progress.stage("factors of what differs", len(tuned.state))
    adapter = ExtractedAdapter.of(
        tuned.state, tuned.facts, under.state, rank=plan.rank, energy=plan.energy, on_tensor=progress.advance
    )
    with atomic_directory(output, overwrite=overwrite, inputs=places) as folder:
        progress.stage("saving")
        adapted = save_adapter(adapter, folder, under, tuned.files)
        losses = _losses(blocks, {"model": tuned, "adapted": adapted}, device, progress)
        if inputs.growth is None:
            losses |= _losses(blocks, {"base": under}, device, progress)
        report = _report(plan, inputs, adapter, losses, blocks, began)
        (folder / CARD).write_text(render_adapter_card(report, output.absolute().name), encoding="utf-8")
        report = sealed(report, folder)
        write_json(folder / REPORT, report)
    return report


def _blocks(plan: ExtractPlan, inputs: Inputs, model: Checkpoint, progress: Progress) -> dict[str, Tensor]:
    if not plan.data:
        return {}
    progress.stage("reading text")
    text = text_of_model(plan.data, model.tokenizer(), model.config, context=inputs.context, seed=plan.seed)
    parts = text.blocks(fit_tokens=0, select_tokens=0, report_tokens=plan.tokens)
    return {part.label: part.report for part in parts}


def _losses(
    blocks: Mapping[str, Tensor], models: Mapping[str, Checkpoint], device: str, progress: Progress
) -> dict[str, Losses]:
    losses = {}
    for name, model in models.items() if blocks else ():
        progress.stage(f"measuring the {name}")
        losses[name] = LossMeter(model.config, blocks, device=device)(dict(model.state))
    return losses


def _report(
    plan: ExtractPlan,
    inputs: Inputs,
    adapter: ExtractedAdapter,
    losses: Mapping[str, Losses],
    blocks: Mapping[str, Tensor],
    began: float,
) -> dict[str, Any]:
    under, tuned = inputs.whole
    lost = losses["adapted"] - losses["model"] if losses else None
    licence, reason = derived_licence(inputs.licences)
    command = ["isthmus", "extract", public_reference(tuned), "--base", public_reference(under), "-o", "adapter"]
    command += [word for spec in plan.data for word in ("--data", public_text(spec))] + unusual(plan, ExtractPlan())
    return {
        "schema": 1,
        "command": "extract",
        "task": under.schema.task,
        "endpoints": [record_of(tuned)],
        "base": record_of(under),
        "adapter": {
            "rank": plan.rank,
            "asked_energy": None if plan.rank else plan.energy,
            **adapter.record(),
            "rows": rows_added(tuned, under),
            "of": sum(math.prod(shape) for shape in tuned.schema.shapes.values()),
        },
        "models": {name: losses_json(one) for name, one in losses.items()},
        "lost": None if lost is None else lost.mean,
        "lost_stderr": None if lost is None else lost.stderr,
        "data": [{"label": label, "report_tokens": part.numel()} for label, part in blocks.items()],
        "findings": [asdict(finding) for finding in inputs.findings],
        "license": licence,
        "license_reason": reason,
        "reproduce": shlex.join(command),
        "settings": {"seed": plan.seed},
        "seconds": round(time.monotonic() - began, 3),
        "versions": versions("peft"),
    }
