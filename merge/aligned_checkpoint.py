"""`isthmus align`: B, moved next to A, as a model on disk."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..align.alignment import FILE as ALIGNMENT
from ..align.families import FAMILIES, family
from ..align.methods import LOOKING
from ..align.universe import Universe
from ..checkpoint.config import schema_of
from ..checkpoint.errors import BadInput
from ..checkpoint.inputs import Inputs, open_inputs
from ..checkpoint.loading import Checkpoint
from ..checkpoint.manifest import REPORT, sealed
from ..checkpoint.outputs import require_outputs
from ..checkpoint.path_conflicts import model_places
from ..checkpoint.saving import atomic_directory, write_json
from ..checkpoint.serialization import save_small_files, save_weights
from ..checkpoint.trial_loading import preloaded_transformers, require_opens
from ..eval.corpora import text_places
from ..eval.progress import Progress
from .along_path import Candidate, PathChooser
from .job import pick_device
from .plans import AlignPlan, MergePlan
from .reading import ACTIVATION_TOKENS, MergeText, text_of_model, writer_of, written_text

if TYPE_CHECKING:
    from ..align.alignment import Alignment

SELECT_TOKENS = 8192


def align_and_save(
    a: str | Path | Checkpoint,
    b: str | Path | Checkpoint,
    output: Path,
    plan: AlignPlan = AlignPlan(),  # noqa: B008
    *,
    reference: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Align B to A and write the moved B, with alignment.safetensors and isthmus.json, to `output`; returns the report.

    A ``learned`` alignment is kept beside `output` while it is trained, and resumed. `reference` also gets A, in the
    form that B was moved next to (where B was rotated, the canonical form).

    Raises what `isthmus.align.pipeline.align_states` and `isthmus.checkpoint.saving.atomic_directory` raise.
    """
    progress, began = progress or Progress(), time.monotonic()
    places = model_places((a, b)) + text_places(plan.data)
    require_outputs(None, [("the output", output), ("--reference", reference)], places, overwrite=overwrite)
    if plan.method in LOOKING and not plan.data:
        raise BadInput(f"--method {plan.method} looks at what the models do with text: add --data")
    progress.stage("checking")
    inputs = open_inputs((a, b), families=FAMILIES, narrow=True, longest=plan.context)
    progress.findings(inputs.findings)
    places += model_places(inputs.whole)
    if inputs.contexts is not None:
        raise BadInput(
            "align is for models of one context length, and one of these has more positions: `isthmus merge` aligns "
            "them, and takes the rest from that one"
        )
    if plan.stream and inputs.growth is not None:
        raise BadInput("--stream is for models of one vocabulary: here, one of them has more")
    candidate = _aligned(plan, inputs, output, progress)
    aligned = candidate.aligned
    sides, error = _with_all_rows(aligned, inputs, plan)
    report = {
        "schema": 1,
        "command": "align",
        "endpoints": [{"ref": model.name, "revision": model.revision} for model in inputs.whole],
        "method": aligned.alignment.method,
        "asked": plan.method,
        "learning": candidate.learning,
        "score": aligned.alignment.score,
        "max_log_prob_error": error,
        "findings": [asdict(finding) for finding in inputs.findings],
        "seconds": round(time.monotonic() - began, 3),
    }
    progress.stage("saving")
    first, second = inputs.whole
    dtype = None if plan.dtype is None else getattr(torch, plan.dtype)
    with ExitStack() as outputs:  # neither is published where one of them cannot be written
        directory = outputs.enter_context(atomic_directory(output, overwrite=overwrite, inputs=places))
        digests = _save_model(directory, sides[1], aligned.alignment, second, dtype, output.name)
        aligned.alignment.save(directory / ALIGNMENT)
        report = sealed(report, directory, digests)
        write_json(directory / REPORT, report)
        if reference is not None:
            directory = outputs.enter_context(atomic_directory(reference, overwrite=overwrite, inputs=places))
            digests = _save_model(directory, sides[0], aligned.alignment, first, dtype, reference.name)
            ends = [{"ref": first.name, "revision": first.revision}]
            origin = {"schema": 1, "command": "align", "endpoints": ends, "method": aligned.alignment.method}
            write_json(directory / REPORT, sealed(origin, directory, digests))
    if candidate.run is not None:
        candidate.run.remove()
    return report


def _aligned(plan: AlignPlan, inputs: Inputs, output: Path, progress: Progress) -> Candidate:
    learns = plan.method == "learned"
    merge = MergePlan(data=plan.data, learn=plan.learn, align=plan.method, tokens=SELECT_TOKENS, seed=plan.seed)
    text, device = MergeText(), pick_device(plan.device)
    if learns and not plan.data:
        text = written_text(writer_of(inputs, merge, device, progress), inputs.context, SELECT_TOKENS)
    elif plan.needs_text:
        progress.stage("reading text")
        trained = plan.learn.training.tokens(len(plan.data), inputs.context) if learns else 0
        selected, config = SELECT_TOKENS if learns else 0, inputs.first.config
        source = text_of_model(plan.data, inputs.tokenizer(), config, context=inputs.context, seed=plan.seed)
        fitted = max(ACTIVATION_TOKENS, trained)
        text = MergeText(source.blocks(fit_tokens=fitted, select_tokens=selected, report_tokens=0))
    chooser = PathChooser(inputs, text, merge, device, progress, beside=output)
    if learns and not plan.stream:
        return chooser.align(in_table=True)
    began = time.monotonic()
    aligned = chooser.aligned_by(plan.method, stream=plan.stream)
    return Candidate(aligned, time.monotonic() - began)


def _with_all_rows(
    aligned: Universe, inputs: Inputs, plan: AlignPlan
) -> tuple[tuple[Mapping[str, Tensor], Mapping[str, Tensor]], float]:
    """A and the moved B with all rows of their vocabularies, and how far B's log-probabilities are from its own."""
    a, b = aligned.states
    if inputs.growth is None:
        return (a, b), aligned.max_log_prob_error
    first, second = inputs.whole
    moved = aligned.alignment.apply(second.state, family(second.config))
    error = aligned.alignment.verify(second.state, moved, second.config, seed=plan.seed)
    return (aligned.alignment.reference(first.state, family(first.config)), moved), error


def _save_model(
    directory: Path,
    state: Mapping[str, Tensor],
    alignment: Alignment,
    source: Checkpoint,
    dtype: torch.dtype | None,
    name: str,
) -> dict[str, str]:
    saved_dtype = dtype or source.dtype
    facts = alignment.facts(source.facts)
    maker = f"'{source.name}' after {alignment.method} alignment"
    shapes, stored = source.as_stored(schema_of(facts, source.name, FAMILIES).shapes, state)
    with preloaded_transformers(facts, FAMILIES):
        digests = save_weights(directory, shapes, stored, saved_dtype, maker=maker)
        save_small_files(directory, facts, source.files, saved_dtype)
    require_opens(directory, name, FAMILIES)
    return digests
