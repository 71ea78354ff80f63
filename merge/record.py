"""The report of a merge: what isthmus.json holds."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from ..checkpoint.card import letter
from ..checkpoint.checks.diagnosis import diagnose
from ..checkpoint.checks.repository import derived_licence
from ..checkpoint.loading import Checkpoint
from ..checkpoint.optimizer_evidence import Evidence, relation
from ..eval.spectrum import PathSpectrum, SpectrumReport
from ..eval.targets import is_labelled, is_masked, lengths, predicted
from ..eval.text import Blocks
from .choosing import Choice
from .job import Job
from .measured import Measured, unmeasured
from .reproduce import chosen_recipe

PARTS = ("fit", "select", "report")


def merge_report(
    job: Job,
    choice: Choice,
    text: Sequence[Blocks],
    trained_by: Sequence[Evidence],
    *,
    measured: Measured | None,
    verdict: SpectrumReport | None,
    along: PathSpectrum | None,
    plane: Mapping[str, Any] | None,
    vocabulary: Mapping[str, Any] | None,
    transplanted: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The report of a merge that is done now, JSON-ready."""
    licences = job.inputs.licences
    licence, reason = derived_licence(licences)
    diagnosis = diagnose(job.inputs.findings)
    losses = measured.member_losses() if measured else [{} for _ in job.ends]
    accuracies = measured.member_accuracies() if measured else []
    scores = measured.member_scores() if measured else []
    return {
        "schema": 1,
        "command": "merge",
        "task": job.inputs.first.schema.task,
        "endpoints": [
            {
                **record_of(end),
                "license": own,
                "loss": loss,
                **({"accuracies": accuracies[place]} if accuracies else {}),
                **({"tasks": scores[place]} if scores else {}),
                "optimizer": evidence.optimizer,
                "optimizer_evidence": evidence.why,
            }
            for place, (end, own, loss, evidence) in enumerate(
                zip(job.ends, licences[job.base :], losses, trained_by, strict=True)
            )
        ],
        "optimizers": {
            "relation": relation([evidence.optimizer for evidence in trained_by]),
            "confidence": [evidence.confidence for evidence in trained_by],
        },
        "alignment": {"asked": job.plan.alignment, **choice.alignment},
        **(_of_path(choice, along) if choice.recipe is None else _of_operator(job, choice, measured)),
        **(measured.report() if measured else unmeasured(choice.t)),
        "refitted": choice.refitted,
        "spectrum": asdict(verdict) if verdict else None,
        "adapter": _adapter(job, choice),
        **({"head": letter(job.inputs.head - job.base)} if job.inputs.head is not None else {}),
        "plane": plane,
        "vocabulary": vocabulary,
        "transplanted": list(transplanted),
        "findings": [asdict(finding) for finding in job.inputs.findings],
        "diagnosis": None if diagnosis is None else str(diagnosis),
        "data": [
            {
                "label": part.label,
                "block": part.report.shape[1],
                "hidden": predicted(part.report).shape[1] if is_masked(part.report) else 0,
                **{f"{name}_tokens": int(lengths(getattr(part, name)).sum()) for name in PARTS},
                **_examples(part),
            }
            for part in text
        ],
        "license": licence,
        "license_reason": reason,
        "reproduce": job.command,
        "settings": _settings(job),
        "seconds": round(time.monotonic() - job.began, 3),
        "versions": versions(*(["lm_eval"] if scores else [])),
    }


def _examples(part: Blocks) -> dict[str, int]:
    """How many labelled examples every part has; nothing of text."""
    return {f"{name}_examples": len(getattr(part, name)) for name in PARTS} if is_labelled(part.report) else {}


def versions(*further: str) -> dict[str, str]:
    """The versions that a result depends on; `further` are packages beside those that all results do."""
    return {name: version(name) for name in ("isthmus", "torch", "transformers", *further)}


def record_of(model: Checkpoint) -> dict[str, Any]:
    """A model in a report: its name and revision, and where it is; of an adapted one, its parts."""
    record: dict[str, Any] = {"ref": model.name, "revision": model.revision, "on_hub": model.place.on_hub}
    if model.source is not None and len(model.source.parts) > 1:
        record["parts"] = [
            {"ref": part.name, "revision": part.revision, "on_hub": part.reference.on_hub}
            for part in model.source.parts
        ]
    return record


def _adapter(job: Job, choice: Choice) -> dict[str, Any] | None:
    """The adapter that the merge is saved as, with its base."""
    if choice.adapter is None or job.under is None:
        return None
    size = sum(math.prod(shape) for shape in job.inputs.first.schema.shapes.values())
    record = {"base": record_of(job.under), "rank": job.plan.as_lora, **choice.adapter.record(), "of": size}
    return {**record, "rows": rows_added(job.inputs.first, job.under)}


def rows_added(model: Checkpoint, base: Checkpoint) -> int | None:
    """The rows of a model's vocabulary, where they are not those of its base."""
    rows = model.facts.get("vocab_size")
    return None if rows is None or rows == base.facts.get("vocab_size") else int(rows)


def _of_path(choice: Choice, along: PathSpectrum | None) -> dict[str, Any]:
    path_spectrum = along and {
        "verdict": along.verdict,
        "broken_at": along.broken_at,
        "points": [{"t": t, "excess": excess, "position": position} for t, excess, position in along.points],
    }
    return {
        "path": {"kind": "linear", "bends": 0, "steps": 0, **choice.training},
        "restored_spectrum": choice.restored,
        "path_spectrum": path_spectrum,
    }


def _of_operator(job: Job, choice: Choice, measured: Measured | None) -> dict[str, Any]:
    assert choice.recipe is not None
    return {
        "path": {"kind": "none", "bends": 0, "steps": 0},
        "base": record_of(job.inputs.first) if job.base else None,
        "method": choice.recipe.to_dict(),
        "soup": _of_weights(job, choice, measured),
        "star": None if choice.star is None else {**choice.training, "arms": list(measured.star) if measured else []},
    }


def _of_weights(job: Job, choice: Choice, measured: Measured | None) -> dict[str, Any] | None:
    """The weights that were chosen, what that gained, and the recipe that makes the merge without choosing again."""
    gain = measured.gain_of_weights if measured else None
    if choice.soup is None or gain is None:
        return None
    assert choice.recipe is not None
    recipe, command = chosen_recipe(job.plan, choice.recipe, job.inputs, choice.alignment["method"])
    return {
        **choice.soup,
        "gain": gain.mean,
        "gain_stderr": gain.stderr,
        "recipe": recipe,
        "command": command,
    }


def _settings(job: Job) -> dict[str, Any]:
    names = ("objective", "interior", "t", "seed") if job.recipe is None else ("soup", "seed")
    return {**{name: getattr(job.plan, name) for name in names}, "dtype": str(job.dtype).removeprefix("torch.")}
