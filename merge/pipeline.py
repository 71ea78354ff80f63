"""The main job: open → read text → align → choose → build → measure → judge → result, for any number of models.

Two models are merged at a point of the path between them, or, as any number, by an operator. Only how their alignment,
and what is built of them, is chosen differs between the two (`along_path`, `by_operator`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..checkpoint.adapters.extracted import ExtractedAdapter
from ..checkpoint.config import build_config
from ..checkpoint.errors import GateRefused
from ..checkpoint.finite import require_writable
from ..checkpoint.loading import Checkpoint
from ..checkpoint.optimizer_evidence import Evidence
from ..checkpoint.rows import in_blocks
from ..checkpoint.sizes import bytes_of
from ..eval.fingerprint import fingerprint_of, optimizer_of
from ..eval.processes import several, wait_for_everyone
from ..eval.progress import Progress
from ..eval.spectrum import PathSpectrum, Spectrum, SpectrumReport, Thresholds, along_path, among
from ..eval.tasks.specs import required
from .along_path import PathChooser, saved_path
from .beside_losses import memorized, plane_of, probe, quantized, samples_of
from .by_operator import OperatorChooser
from .choosing import Choice
from .composition import naming_of
from .differences import differences, explanation_record, observed
from .forecast import expected
from .job import Job, open_job
from .measure import Measuring, rounded
from .measured import Measured
from .offloaded import measured_from_disk
from .operators.combined import Combined
from .path import WeightPath
from .plans import CurvePlan, MergePlan
from .reading import MergeText, read_text
from .recipes.recipe import Recipe
from .record import merge_report
from .result import Merge
from .saved_path import SavedPath
from .search import grid
from .spectra import spectrum
from .task_scores import task_results
from .training.training_state import TrainingState
from .transplant_losses import transplant_losses
from .verify import Shown
from .vocabulary import Whole, vocabulary_record

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def merge_models(
    models: Sequence[str | Path | Checkpoint] | Recipe,
    plan: MergePlan = MergePlan(),  # noqa: B008
    *,
    beside: Path | None = None,
    progress: Progress | None = None,
) -> Merge:
    """Merge two models at the lowest point of a path between them, or any number by an operator, as `plan` asks.

    `models` are directories, Hub ids or checkpoints: two are joined by a path, more are averaged; or a recipe, which
    names its operator. Without text and without alignment, tensors go from disk to disk in blocks of rows when the
    result is saved. `beside` is the output beside which a training is kept while it goes on, and resumed from.

    Raises IncompatibleModels before any weight is read; GateRefused, with nothing saved, when a gate refuses; BadInput,
    UnsupportedFamily, CorruptCheckpoint, AlignmentError, NotFinite.
    """
    job = open_job(models, plan, beside, progress or Progress())
    if job.is_composed:
        return from_composition(job)
    if job.plan.is_plain:
        return result(job, as_adapter(job, streamed(job)), measured_ends(job), MergeText())
    text, same_text, saved = read(job)
    if job.plan.max_memory is not None:
        return from_disk(job, text)
    if job.progress.wants_expectations and not several():  # the probe is of one process
        job.progress.expect(expected(job, text))
    ends, choice = choose(job, text, saved)
    choice = as_adapter(job, choice)
    whole = build(job, choice)
    measured = measure(job, text, choice, whole)
    judgement = judge(job, choice, ends)
    merge = result(job, choice, ends, text, whole, measured, judgement, same_text)
    wait_for_everyone()  # the main process may go on, and remove what others read
    return merge


def streamed(job: Job) -> Choice:
    """A plain average, or an operator and nothing else: tensor by tensor when it is saved, never in memory whole."""
    observer = observed(job)
    states: Sequence[Mapping[str, Tensor]] = [member.state for member in job.inputs.members]
    read = observer.models if observer else states
    if job.recipe is None:
        assert job.plan.t is not None, "without text, t is asked for"
        line, t = WeightPath.line(states), job.plan.t
        record = {"method": "none", "score": 0.0, "max_log_prob_error": 0.0, "seconds": 0.0}
        state: Mapping[str, Tensor] = WeightPath.line(read)(t)
        state = observer.merged(state) if observer else state
        return Choice(None, state, record, f"the merge at t = {t:g}", t, line, observed=observer)
    values = job.recipe.values(list(job.inputs.first.schema.shapes))
    state = Combined(job.recipe.operator, read, values, seed=job.plan.seed)
    state = observer.merged(state) if observer else state
    record = {"method": "none", "score": 0.0, "rounds": 0, "max_log_prob_error": 0.0, "tried": {}}
    maker = f"the merge by {job.recipe.operator.name}"
    return Choice(None, state, record, maker, recipe=job.recipe, observed=observer)


def read(job: Job) -> tuple[MergeText, bool | None, SavedPath | None]:
    """The text, whether the saved tokenizer reads it alike, and the path that was saved, whose text is left out."""
    saved = saved_path(job.plan, job.inputs, job.progress) if job.recipe is None else None
    text, same_text = read_text(
        job.plan, job.recipe, job.inputs, job.device, job.progress, seen=saved.seen if saved else None
    )
    if text:
        text.training_labels(job.plan.fit_on)
    return text, same_text, saved


def choose(job: Job, text: MergeText, saved: SavedPath | None) -> tuple[Ends, Choice]:
    """The alignment, then what the models' spectra tell of their optimizers, then the path or the weights."""
    if job.recipe is not None:
        operator = OperatorChooser(
            job.inputs, text, job.plan, job.device, job.progress, job.recipe, job.tasks, beside=job.beside
        )
        aligned = operator.align(in_table=job.in_table)
        ends = measured_ends(job)
        return ends, operator.choose(aligned, ends.trained_by)
    path = PathChooser(job.inputs, text, job.plan, job.device, job.progress, saved, job.tasks, beside=job.beside)
    start = path.align(in_table=job.in_table)
    ends = measured_ends(job)
    return ends, path.choose(start, ends.trained_by)


def as_adapter(job: Job, choice: Choice) -> Choice:
    """What is merged as an adapter of the base makes it, where one is asked for."""
    if job.under is None:
        return choice
    rank, facts = job.plan.as_lora, job.inputs.first.facts
    job.progress.stage("factors of what differs from the base", len(choice.state))
    adapter = ExtractedAdapter.of(
        choice.state,
        facts,
        job.under.state,
        rank=None if rank == "exact" else rank,
        is_of_base=partial(_is_of_base, job),
        on_tensor=job.progress.advance,
    )
    return replace(choice, state=adapter.state(job.under.state, choice.state), adapter=adapter)


def _is_of_base(job: Job, name: str) -> bool:
    """Whether a tensor is that of the base in all models that are merged, so that a merge differs by rounding alone."""
    assert job.under is not None
    states = [end.state for end in job.ends]
    shape = job.under.schema.shapes.get(name)
    if shape is None or any(end.schema.shapes.get(name) != shape for end in job.ends):
        return False
    base = job.under.state
    return all(
        torch.equal(one, other)
        for state in states
        for one, other in zip(in_blocks(state, name), in_blocks(base, name), strict=True)
    )


@dataclass(frozen=True)
class Ends:
    """The spectra of the models that are merged, empty where they are not measured, and the optimizers they tell of."""

    spectra: tuple[Spectrum, ...]
    trained_by: tuple[Evidence, ...]


def measured_ends(job: Job) -> Ends:
    """The spectra of the models that are merged, where they are needed, and the optimizers that trained them."""
    measures = job.measures_spectrum or isinstance(job.plan.path, CurvePlan)
    stated = job.plan.optimizers if job.recipe is None else (None,) * len(job.ends)
    spectra: list[Spectrum] = []
    trained_by = []
    if measures:
        job.progress.stage("measuring the models' spectra", len(job.ends))
    for end, evidence, name in zip(job.ends, job.inputs.provenance[job.base :], stated, strict=True):
        fingerprint = None
        if measures:
            spectra.append(spectrum(end.state, end.config))
            fingerprint = fingerprint_of(end.state, end.config, spectra[-1])
            job.progress.advance()
        trained_by.append(optimizer_of(evidence, fingerprint, name))
    return Ends(tuple(spectra), tuple(trained_by))


def build(job: Job, choice: Choice) -> Whole:
    """The merge with all rows of the vocabulary, as it will be saved; finite, and in range of its dtype."""
    facts = choice.universe.facts(job.inputs.first.facts)
    whole = Whole.of(choice.state, facts, job.inputs, choice.aligned)
    require_writable(whole.state, job.dtype, choice.maker)
    return whole


def measure(job: Job, text: MergeText, choice: Choice, whole: Whole) -> Measured | None:
    """The losses of the merge and of all that it is held against, which must pass the gates; None without text."""
    if not text:
        return None
    measuring = Measuring(job.inputs, text.report, device=job.device, progress=job.progress)
    if choice.path is not None and choice.t is not None:
        measured = measuring.along_path(choice.path, choice.universe, choice.t, choice.state, whole, job.dtype)
    else:
        assert choice.recipe is not None
        merged = rounded(whole.state, job.dtype)
        measured = measuring.among_models(choice.universe, merged, choice.recipe.plain_weights(), base=job.base)
    equal = equal_weights(job, choice)
    measured = replace(
        measured,
        star=() if choice.star is None else measuring.arms(choice.star, choice.universe.config),
        equal=None if equal is None else measuring.of_state(rounded(equal.state, job.dtype), choice.universe.config),
        probe=probe(job, text, choice, measured),
        memorized=memorized(job, text),
        quantized=quantized(job, text),
    )
    if job.tasks is not None:
        scores = task_results(
            job.tasks, job.inputs, whole, job.base, job.dtype, equal, device=job.device, progress=job.progress
        )
        measured = replace(measured, tasks=scores)
    with kept_if_refused(choice.run):
        job.plan.gates.pass_loss(measured.report())
        if measured.tasks is not None and job.tasks is not None:
            measured.tasks.pass_gates(required(job.plan.gates.require_task, job.tasks.labels))
    return measured


def equal_weights(job: Job, choice: Choice) -> Whole | None:
    """The same merge with equal weights, as it would be saved; None where no weights were chosen."""
    if choice.equal is None:
        return None
    return build(job, as_adapter(job, replace(choice, state=choice.equal, adapter=None)))


@dataclass(frozen=True)
class Judgement:
    """The verdict on the spectrum of the merge, and on those along its path; the spectra by t."""

    verdict: SpectrumReport | None = None
    along: PathSpectrum | None = None
    spectra: Mapping[float, Spectrum] = field(default_factory=dict)


def judge(job: Job, choice: Choice, ends: Ends) -> Judgement:
    """The verdict on the spectrum, which must pass the gates; none where it is not measured."""
    if not job.measures_spectrum:
        return Judgement()
    config, plan = choice.universe.config, job.plan.spectrum
    thresholds = Thresholds(plan.max_excess, plan.same_kind)
    spectra: dict[float, Spectrum] = {}
    along = None
    if choice.point is not None and choice.t is not None:
        spectra = spectra_along(job, choice.point, choice.t, ends, config)
        along = along_path(spectra, thresholds)
    changed = any(one and one["kept"] for one in (choice.restored, choice.refitted)) or choice.adapter is not None
    merged = spectrum(choice.state, config) if changed or choice.t is None else spectra[choice.t]
    verdict = among(ends.spectra, merged, thresholds)
    with kept_if_refused(choice.run):
        job.plan.gates.pass_spectrum(verdict)
    return Judgement(verdict, along, spectra)


def spectra_along(
    job: Job, point: Callable[[float], Mapping[str, Tensor]], t: float, ends: Ends, config: PretrainedConfig
) -> dict[float, Spectrum]:
    """Spectra along the path; at its ends they are those of the endpoints, which alignment leaves alone."""
    spectra = dict(zip((0.0, 1.0), ends.spectra, strict=True))
    between = sorted({*grid(), t} - spectra.keys())
    job.progress.stage("measuring the spectrum", len(between))
    for place in between:
        spectra[place] = spectrum(point(place), config)
        job.progress.advance()
    return dict(sorted(spectra.items()))


@contextmanager
def kept_if_refused(training: TrainingState | None) -> Iterator[None]:
    """Say, when a gate refuses, that what was trained is not lost."""
    try:
        yield
    except GateRefused as refusal:
        if training is None:
            raise
        raise GateRefused(f"{refusal}; what was trained is kept for the same command with other gates") from None


def from_disk(job: Job, text: MergeText) -> Merge:
    """A merge of models larger than memory, aligned layer by layer where that is asked for: with text, written once,
    measured from there, and saved from there.
    """
    memory = _memory(job)
    assert job.recipe is not None
    assert memory is not None
    method = job.plan.alignment
    assert method != "auto", "require_sense"
    chooser = OperatorChooser(job.inputs, text, job.plan, job.device, job.progress, job.recipe, beside=job.beside)
    aligned = chooser.aligned_by(method, stream=True)
    choice = streamed(job) if aligned.alignment.method == "none" else chooser.choose(aligned)
    whole = Whole.of(choice.state, aligned.facts(job.inputs.first.facts), job.inputs, None)
    if not text:
        return result(job, choice, measured_ends(job), text, whole)
    measured, state, scratch = measured_from_disk(
        job.recipe, job.inputs, aligned, choice.state, text.report, memory, job.dtype, job.progress
    )
    job.plan.gates.pass_loss(measured.report())
    whole = replace(whole, state=state)
    merge = result(job, replace(choice, state=state), measured_ends(job), text, whole, measured=measured)
    return replace(merge, scratch=scratch)


def from_composition(job: Job) -> Merge:
    """A merge of layers of several models, or in stages: tensor by tensor; with text, in memory and measured."""
    assert job.recipe is not None
    composition = job.composition()
    record = {"method": "none", "score": 0.0, "rounds": 0, "max_log_prob_error": 0.0, "tried": {}}
    maker = f"the merge by {job.recipe.operator.name}"
    choice = Choice(None, composition.state, record, maker, recipe=job.recipe)
    whole = Whole.of(composition.state, composition.facts, job.inputs, None)
    naming = naming_of(job.inputs.first.naming, composition.schema, composition.layers)
    if not job.plan.data:
        merge = result(job, choice, measured_ends(job), MergeText(), whole)
        return replace(merge, naming=naming, in_memory=False)
    text, _, _ = read(job)
    job.progress.stage(f"merging ({job.recipe.operator.name})", len(composition.state))
    state = {}
    for name in composition.state:
        state[name] = composition.state[name]
        job.progress.advance()
    whole, choice = replace(whole, state=state), replace(choice, state=state)
    config = build_config(whole.facts, "merge")
    require_writable(state, job.dtype, maker)
    measuring = Measuring(job.inputs, text.report, device=job.device, progress=job.progress)
    measured = measuring.of_composed(rounded(state, job.dtype), config, base=job.base)
    measured = replace(measured, memorized=memorized(job, text), quantized=quantized(job, text))
    job.plan.gates.pass_loss(measured.report())
    ends, verdict = measured_ends(job), None
    if job.measures_spectrum:
        thresholds = Thresholds(job.plan.spectrum.max_excess, job.plan.spectrum.same_kind)
        verdict = among(ends.spectra, spectrum(state, config), thresholds)
        job.plan.gates.pass_spectrum(verdict)
    merge = result(job, choice, ends, text, whole, measured, Judgement(verdict))
    return replace(merge, naming=naming)


def result(
    job: Job,
    choice: Choice,
    ends: Ends,
    text: MergeText,
    whole: Whole | None = None,
    measured: Measured | None = None,
    judgement: Judgement = Judgement(),
    same_text: bool | None = None,
) -> Merge:
    """The merge with its report, ready to be saved. `whole` is None for what is never in memory."""
    if whole is None:
        whole = Whole.of(choice.state, job.inputs.first.facts, job.inputs, None)
    losses = (measured.merge, measured.shared) if measured else ()
    continuations = samples_of(job, whole, text)
    report = merge_report(
        job,
        choice,
        text.parts,
        ends.trained_by,
        measured=measured,
        verdict=judgement.verdict,
        along=judgement.along,
        plane=plane_of(job, choice, text),
        vocabulary=vocabulary_record(job.inputs, *losses, same_text=same_text),
        transplanted=transplant_losses(job.inputs, job.base, text.report, device=job.device, progress=job.progress),
    )
    weights = differences(job, choice)
    report["explanation"] = explanation_record(weights, report) if weights else None
    return Merge(
        job.ends,
        choice.element if choice.path else None,
        choice.path,
        whole.state,
        whole.facts,
        job.dtype,
        job.inputs.small_files(),
        report,
        dict(judgement.spectra),
        continuations,
        choice.seen,
        choice.run,
        inputs=job.places,
        shown=Shown(text.report, measured.merge, _memory(job)) if measured else None,
        maker=choice.maker,
        base=job.inputs.first if job.base else None,
        in_memory=not job.plan.is_plain and job.plan.max_memory is None,
        adapter=choice.adapter,
        under=job.under,
        observed=choice.observed,
    )


def _memory(job: Job) -> int | None:
    return None if job.plan.max_memory is None else bytes_of(job.plan.max_memory)
