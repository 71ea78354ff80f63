"""The main job: check → load → align → path → merge point → gates → spectrum → a result that can be saved."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..align.alignment import LOOKING, Alignment
from ..align.families import FAMILIES, family
from ..checkpoint.config import build_config
from ..checkpoint.errors import BadInput, GateRefused
from ..checkpoint.finite import require_number, require_writable
from ..checkpoint.loading import Checkpoint
from ..checkpoint.optimizer_evidence import Evidence
from ..checkpoint.pair import Pair, open_pair
from ..checkpoint.path_conflicts import model_places
from ..eval.samples import Sample, samples
from ..eval.seen import Seen
from ..eval.spectrum import (
    MAX_EXCESS,
    SAME_KIND,
    PathSpectrum,
    Spectrum,
    SpectrumReport,
    along_path,
    compare_spectra,
)
from ..eval.text import Blocks, labelled_blocks, text_places
from .candidate import ACTIVATION_TOKENS, Candidate, Chooser
from .climb import Align, climb, closed_forms
from .command import merge_command
from .curve import CurvePlan
from .gates import Gates
from .learn import LearnPlan
from .measure import Measured, measure
from .path import WeightPath
from .plane import path_plane
from .point import Objective, grid
from .progress import Progress
from .provenance import fingerprint_of, optimizer_of
from .record import Settings, merge_record
from .result import Merge
from .shown import Shown
from .spectra import spectrum
from .stored import StoredPath, path_places, read_path
from .training_state import TrainingState
from .vocabulary import Whole, vocabulary_record

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def merge(
    a: str | Path | Checkpoint,
    b: str | Path | Checkpoint,
    *,
    data: Sequence[str] = (),
    align: Align = "auto",
    learn: LearnPlan = LearnPlan(),  # noqa: B008
    path: Literal["linear"] | CurvePlan | Path = "linear",
    fit_on: Sequence[str] = (),
    keep_in: Path | None = None,
    t: float | None = None,
    objective: Objective = "mean",
    interior: float = 0.1,
    gates: Gates = Gates(),  # noqa: B008
    tokens: int = 8192,
    measure_spectrum: bool | None = None,
    restore: bool = False,
    max_excess: float = MAX_EXCESS,
    same_kind: float = SAME_KIND,
    dtype: torch.dtype | None = None,
    device: str = "auto",
    seed: int = 0,
    optimizers: tuple[str | None, str | None] = (None, None),
    progress: Progress | None = None,
) -> Merge:
    """Merge two checkpoints on a path between them, after alignment, where the loss is lowest.

    `path` is the straight line, a curve to be trained, or the directory of a path that was saved. A curve is trained on
    the fit text of the labels `fit_on` (by default all); `keep_in` is the output beside which the run is kept while it
    goes on, and resumed from. `restore` puts the singular values of the merge to the point between its endpoints',
    where the loss on the select text does not rise by it.

    `data` are corpora as `--data` takes them (`isthmus.eval.text.corpus`); each gives `tokens` tokens to select and as
    many to report on. Without, no loss is measured, and `t` and `align` have to be given. `t=None` is the t in
    [interior, 1 − interior] with the lowest `objective`. `align="learned"` starts from the best closed form and follows
    `learn`; with a curve, it is trained together with the bends. ``auto`` goes from ``none`` over ``orthogonal`` and
    ``combined`` to ``learned``, keeps what has the lowest barrier, and stops where that is within the noise; before a
    curve it stops after ``orthogonal``, and it does not learn where text is short or the model too large
    (`LearnPlan.affordable`). All of that is decided on the select text.

    `dtype` is what the result is saved in: by default the endpoints' own when they share one, else float32.
    `optimizers` are those that trained A and B, where the user knows better than their files and weights tell.
    `measure_spectrum=None` measures it unless the merge is a plain average without data; `max_excess` and `same_kind`
    are the thresholds of its verdict, in nats.

    Raises IncompatibleModels before any weight is read; GateRefused, with nothing saved, when a gate refuses; BadInput,
    UnsupportedFamily, CorruptCheckpoint, AlignmentError.
    """
    arguments, began = dict(locals()), time.monotonic()
    progress = progress or Progress()
    _require_sense(data, align, t, interior, gates, path, restore, (max_excess, same_kind))
    inputs = tuple(model_places((a, b)) + text_places(data) + path_places(path))
    device = pick_device(device)
    progress.stage("checking")
    plain = not data and align == "none" and path == "linear" and not measure_spectrum and not gates.require_spectrum
    pair = open_pair(a, b, families=FAMILIES, opened=not plain)
    progress.findings(pair.findings)
    first, second = pair.first, pair.second
    known = first.model_type in FAMILIES
    needs_table = align not in ("auto", "none") or path != "linear" or restore
    if not known and (needs_table or measure_spectrum or gates.require_spectrum):
        family(first.config)  # raises, with the list of the supported ones
    dtype = dtype or (first.dtype if first.dtype == second.dtype else torch.float32)
    defaults = {name: parameter.default for name, parameter in signature(merge).parameters.items()}
    command = merge_command(pair.whole, arguments, defaults)
    asked = Settings(align, objective, interior, t, seed, str(dtype).removeprefix("torch."), command)
    if plain:
        assert t is not None, "without text, t is asked for above"
        return replace(_plain_average(pair, t, dtype, asked, optimizers, began), inputs=inputs)
    whole_ends = [replace(side, state=dict(side.state)) for side in pair.whole]
    if pair.growth is None:
        first, second = whole_ends
    else:
        first, second = (replace(side, state=dict(side.state)) for side in (first, second))
    pair = replace(pair, first=first, second=second, whole=(whole_ends[0], whole_ends[1]))
    stored = _stored(path, align, first, second, progress) if isinstance(path, Path) else None
    text: tuple[Blocks, ...] = ()
    same_text: bool | None = None
    if data:
        progress.stage("reading text")
        tokenizer, context = pair.tokenizer(), int(first.config.max_position_embeddings)
        read = partial(
            labelled_blocks,
            data,
            tokenizer=tokenizer,
            context=context,
            vocabulary=int(first.config.vocab_size),
            seed=seed,
        )
        read_first = partial(
            read,
            fit_tokens=_fit_tokens(align, learn, path, len(fit_on) or len(data), context),
            select_tokens=tokens,
            report_tokens=tokens,
            seen=stored.seen if stored else None,
        )
        text = read_first()
        same_text = _read_alike(pair, read_first, text)

        def read_more(count: int) -> Sequence[Blocks]:
            progress.stage("reading more text")
            measured = Seen.of((rows for part in text for rows in (part.select, part.report)), every=1)
            return read(fit_tokens=count, select_tokens=0, report_tokens=0, seen=measured)

    chooser = Chooser(
        first,
        second,
        text,
        device=device,
        seed=seed,
        progress=progress,
        read_more=read_more if align == "auto" and path == "linear" else None,
    )
    labels = _labels(text, fit_on)
    kept: TrainingState | None = None
    if stored:
        chosen = chooser.stored(stored)
    elif isinstance(path, CurvePlan) or align not in ("auto", "learned"):
        chosen = chooser.best(closed_forms(align, known=known))
    else:
        chosen, kept = climb(chooser, align, learn, labels, keep_in, known=known)
    text = chooser.text
    wanted = (known if measure_spectrum is None else measure_spectrum) or gates.require_spectrum
    ends: dict[float, Spectrum] = {}
    if wanted or isinstance(path, CurvePlan):
        progress.stage("measuring the endpoints' spectra")
        ends = {end: spectrum(side.state, side.config) for end, side in ((0.0, first), (1.0, second))}
    trained_by = _provenance(pair, ends, optimizers)
    if isinstance(path, CurvePlan):
        path = path.for_endpoints([evidence.optimizer for evidence in trained_by])
        learned = align == "learned"
        kept = TrainingState.of_run(keep_in, first, second, chosen.aligned, (path, learned), text, labels)
        chosen = chooser.bent(chosen, path, labels, kept, with_alignment=learned)
    point = chooser.point(chosen, objective, interior) if t is None else t
    state = chosen.at(point)
    restored: dict[str, float | bool] | None = None
    if restore:
        state, restored = chooser.restored(chosen, point)

    alignment, maker = chosen.aligned.alignment, f"the merge at t = {point:g}"
    whole = Whole.of(state, alignment.facts(first.facts), pair, chosen.aligned)
    require_writable(whole.state, dtype, maker)
    measured: Measured | None = None
    if text:
        measured = measure(chosen, pair, point, state, whole, text, dtype=dtype, device=device, progress=progress)
        with _kept_if_refused(kept):
            gates.pass_loss(measured.report())

    plane = None
    if text and chosen.path.bends:
        plane = path_plane(chosen.path, chosen.aligned.config, text, device, progress)

    spectra: dict[float, Spectrum] = {}
    verdict: SpectrumReport | None = None
    along: PathSpectrum | None = None
    if wanted:
        spectra = _spectra(chosen, point, ends, progress)
        limits = {"max_excess": max_excess, "same_kind": same_kind}
        along = along_path(spectra, **limits)
        at_merge = spectrum(state, chosen.aligned.config) if restored and restored["kept"] else spectra[point]
        verdict = compare_spectra(spectra[0.0], at_merge, spectra[1.0], **limits)
        with _kept_if_refused(kept):
            gates.pass_spectrum(verdict)

    told = _samples(pair, whole, text, seed, progress) if text else ()
    shown = Shown({part.label: part.report for part in text}, measured.merge) if measured else None
    report = merge_record(
        (first, second),
        trained_by,
        pair.licences,
        chosen,
        measured,
        text,
        asked,
        t=point,
        seconds=time.monotonic() - began,
        verdict=verdict,
        along=along,
        restored=restored,
        plane=plane,
        tried=chooser.tried,
        vocabulary=vocabulary_record(
            pair, *((measured.merge, measured.shared) if measured else ()), same_text=same_text
        ),
        findings=pair.findings,
    )
    return Merge(
        (first, second),
        alignment,
        chosen.path,
        whole.state,
        whole.facts,
        dtype,
        pair.small_files(),
        report,
        spectra,
        told,
        chosen.seen,
        kept,
        inputs=inputs,
        shown=shown,
        maker=maker,
    )


def _plain_average(
    pair: Pair,
    t: float,
    dtype: torch.dtype,
    asked: Settings,
    optimizers: tuple[str | None, str | None],
    began: float,
) -> Merge:
    """(1 − t) A + t B and nothing else: tensor by tensor, never a whole state in memory."""
    ends = (pair.first, pair.second)
    line = WeightPath("linear", pair.first.state, pair.second.state)
    whole = Whole.of(line(t), pair.first.facts, pair, None)
    grown = vocabulary_record(pair)
    trained_by, seconds = _provenance(pair, {}, optimizers), time.monotonic() - began
    report = merge_record(
        ends,
        trained_by,
        pair.licences,
        None,
        None,
        (),
        asked,
        t=t,
        seconds=seconds,
        vocabulary=grown,
        findings=pair.findings,
    )
    return Merge(
        ends,
        Alignment("none", {}, 0.0),
        line,
        whole.state,
        whole.facts,
        dtype,
        pair.small_files(),
        report,
        {},
        (),
        maker=f"the merge at t = {t:g}",
    )


def _stored(directory: Path, align: Align, first: Checkpoint, second: Checkpoint, progress: Progress) -> StoredPath:
    """The path between two checkpoints that was saved in a directory."""
    progress.stage("reading the path")
    found = read_path(directory, first, second)
    if align not in ("auto", found.alignment.method):
        raise BadInput(
            f"the path in '{directory.name}' was trained after {found.alignment.method} alignment: leave --align out"
        )
    return found


def _samples(
    pair: Pair,
    whole: Whole,
    text: Sequence[Blocks],
    seed: int,
    progress: Progress,
) -> tuple[Sample, ...]:
    """What both endpoints and the merge, all as their users run them, make of the beginning of every report text."""
    progress.stage("writing samples")
    models: dict[str, tuple[Mapping[str, Tensor], PretrainedConfig]] = {
        name: (side.state, side.config) for name, side in zip("AB", pair.whole, strict=True)
    }
    models["merge"] = (whole.state, build_config(whole.facts, "merge"))
    tokenizer = pair.tokenizer() if pair.growth is None else pair.whole[pair.growth.owner].tokenizer()
    return samples(models, tokenizer, {part.label: part.report for part in text}, seed=seed)


@contextmanager
def _kept_if_refused(training: TrainingState | None) -> Iterator[None]:
    """Say, when a gate refuses, that what was trained is not lost."""
    try:
        yield
    except GateRefused as refusal:
        if training is None:
            raise
        raise GateRefused(f"{refusal}; what was trained is kept for the same command with other gates") from None


def _fit_tokens(
    align: Align, learn: LearnPlan, path: Literal["linear"] | CurvePlan | Path, labels: int, context: int
) -> int:
    """The tokens of every label that are fitted on, as far as that is known beforehand."""
    if isinstance(path, CurvePlan):
        return path.training.tokens(labels, context)
    if align == "learned" and path == "linear":
        return learn.training.tokens(labels, context)
    return -(-ACTIVATION_TOKENS // max(1, labels)) if align in LOOKING and path == "linear" else 0


def _labels(text: Sequence[Blocks], fit_on: Sequence[str]) -> list[str]:
    """The labels to train on."""
    known = [part.label for part in text]
    for label in fit_on:
        if label not in known:
            raise BadInput(f"--fit-on {label}: there is no text of that label; there are: {', '.join(known)}")
    return list(fit_on) or known


def _read_alike(pair: Pair, read: Callable[..., tuple[Blocks, ...]], text: Sequence[Blocks]) -> bool | None:
    """Whether the tokenizer that is saved reads the report text as that of the shared rows did; None if it is that."""
    if pair.growth is None:
        return None
    owner = pair.whole[pair.growth.owner]
    try:
        again = read(tokenizer=owner.tokenizer(), vocabulary=int(owner.config.vocab_size))
    except BadInput:  # it needs so much fewer tokens that there are too few
        return False
    return all(torch.equal(one.report, other.report) for one, other in zip(text, again, strict=True))


def _require_sense(
    data: Sequence[str],
    align: str,
    t: float | None,
    interior: float,
    gates: Gates,
    path: Literal["linear"] | CurvePlan | Path,
    restore: bool,
    limits: tuple[float, float],
) -> None:
    if not data and isinstance(path, CurvePlan):
        raise BadInput("bends are trained on text: add --data (for instance --data stdlib:docs)")
    if not data and align in {*LOOKING, "learned"} and not isinstance(path, Path):
        raise BadInput(f"--align {align} looks at what the models do with text: add --data")
    if not data and restore:
        raise BadInput("--restore-spectrum is judged by the loss on text: add --data")
    if not data and t is None:
        raise BadInput(
            "without text no loss can be measured: add --data (for instance --data stdlib:docs), or give --t"
        )
    if not data and align == "auto" and not isinstance(path, Path):
        raise BadInput(
            "without text alignments cannot be compared: add --data, or say --align none or --align orthogonal"
        )
    if not data and gates.need_loss:
        raise BadInput("--max-barrier and --require-gain need a loss: add --data")
    numbers: dict[str, float | None] = dict(zip(("--max-excess", "--same-kind"), limits, strict=True))
    if isinstance(path, CurvePlan):
        numbers |= {"--bend-lr": path.training.lr, "--bend-weight-decay": path.training.weight_decay}
    for option, value in numbers.items():
        require_number(option, value)
    if t is not None and not 0 <= t <= 1:
        raise BadInput(f"t is a point of the path, between 0 and 1; got {t}")
    if not 0 <= interior < 0.5:
        raise BadInput(f"--interior is a share of the path below 0.5; got {interior}")


def pick_device(name: str) -> str:
    """The device of a name; `auto` takes this process's GPU, where there is one. Raises BadInput for one not here."""
    if name == "auto":
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        raise BadInput(f"there is no device '{name}' here: say --device cpu") from None
    return name


def _provenance(
    pair: Pair, spectra: Mapping[float, Spectrum], asked: tuple[str | None, str | None]
) -> tuple[Evidence, Evidence]:
    """The optimizers of both endpoints; by their weights, too, where their `spectra` were measured."""
    found = []
    for t, side, said, name in zip((0.0, 1.0), (pair.first, pair.second), pair.provenance, asked, strict=True):
        measured = fingerprint_of(side.state, side.config, spectra[t]) if t in spectra else None
        found.append(optimizer_of(said, measured, name))
    return found[0], found[1]


def _spectra(
    chosen: Candidate, point: float, ends: Mapping[float, Spectrum], progress: Progress
) -> dict[float, Spectrum]:
    """Spectra along the path; at its ends they are those of the endpoints, which alignment leaves alone."""
    ts = sorted({*grid(), point} - ends.keys())
    progress.stage("measuring the spectrum", len(ts))
    found = dict(ends)
    for t in ts:
        found[t] = spectrum(chosen.at(t), chosen.aligned.config)
        progress.advance()
    return dict(sorted(found.items()))
