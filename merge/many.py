"""Any number of models: check → load → align → weights → operator → gates → spectrum → a result that can be saved."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from ..align.alignment import KEEP_FORM, LOOKING
from ..align.families import FAMILIES, family
from ..checkpoint.card import letter
from ..checkpoint.errors import BadInput
from ..checkpoint.finite import require_number, require_writable
from ..checkpoint.group import Group, open_group
from ..checkpoint.loading import Checkpoint
from ..checkpoint.optimizer_evidence import Evidence
from ..eval.fingerprint import Fingerprint
from ..eval.placed import bytes_of
from ..eval.samples import Sample, samples
from ..eval.spectrum import MAX_EXCESS, SAME_KIND, Spectrum, SpectrumReport, among
from ..eval.text import Blocks, labelled_blocks, text_places
from .combined import Combined
from .command import combine_command
from .cook import Cook, GroupAlign, fit_tokens
from .effect import require_effect
from .gates import Gates
from .measure import Among, rounded
from .pipeline import pick_device
from .placed import Scratch, measured_from_disk
from .plane import simplex_plane
from .progress import Progress
from .provenance import fingerprint_of, optimizer_of
from .recipe import Recipe, recipe_places
from .record import GroupSettings, group_record
from .result import Merge
from .shown import Shown
from .soup import Soup
from .spectra import spectrum


def combine(
    recipe: Recipe,
    *,
    data: Sequence[str] = (),
    align: GroupAlign = "none",
    soup: Soup = "uniform",
    gates: Gates = Gates(),  # noqa: B008
    tokens: int = 8192,
    measure_spectrum: bool | None = None,
    max_excess: float = MAX_EXCESS,
    same_kind: float = SAME_KIND,
    dtype: torch.dtype | None = None,
    device: str = "auto",
    max_memory: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Merge:
    """Merge any number of models by an operator, after alignment to each other.

    Without `data` no loss is measured, and with ``align="none"`` tensors go from disk to disk in blocks of rows, the
    models never in memory whole. With it, `soup` says where weights come from: the recipe (``uniform``), a ``greedy``
    choice of models, or a ``search``, on the select text; the merge is shown beside all models, their naive average and
    their ensemble on the report text. ``align="auto"`` is ``none`` where the plain average is no worse than the models'
    mean; else ``orthogonal`` or ``combined``, where that makes it better by more than the noise. Operators that want
    statistics take them from the fit text.

    `max_memory`, a size such as ``6GB``, is for models larger than memory: they are merged from disk to disk and
    measured from there, with so much of a model in memory (`isthmus.eval.placed`), without alignment, choice of weights
    or spectrum.

    `dtype` is what the result is saved in: by default the recipe's, else the models' own when they share one, else
    float32.

    Raises IncompatibleModels before any weight is read; GateRefused, with nothing saved, when a gate refuses; BadInput,
    UnsupportedFamily, CorruptCheckpoint, AlignmentError.
    """
    arguments, began = dict(locals()), time.monotonic()
    progress = progress or Progress()
    _require_sense(recipe, data, align, soup, gates)
    require_number("--max-excess", max_excess)
    require_number("--same-kind", same_kind)
    memory = None if max_memory is None else bytes_of(max_memory)
    if memory is not None:
        _require_disk(recipe, data, align, soup, gates, measure_spectrum)
    inputs = tuple(recipe_places(recipe) + text_places(data))
    device = pick_device(device)
    progress.stage("checking")
    plain = not (data or align != "none" or measure_spectrum or gates.require_spectrum)
    group = open_group(recipe.ingredients, tokenizer_of=recipe.tokenizer, families=FAMILIES, opened=not plain)
    group = replace(group, findings=(*group.findings, *recipe.notes))
    progress.findings(group.findings)
    if recipe.tokenizer is not None and not group.keeper.has_tokenizer:
        where = f"{recipe.tokenizer_place}: " if recipe.tokenizer_place else ""
        raise BadInput(f"{where}'{group.keeper.name}' has no tokenizer to take: name another model, or leave it out")
    defaults = {name: parameter.default for name, parameter in signature(combine).parameters.items()}
    command = combine_command(recipe, group, arguments, defaults)
    first = group.members[0]
    known = first.model_type in FAMILIES
    if not known and (
        align not in ("auto", "none") or measure_spectrum or gates.require_spectrum or recipe.operator.knows
    ):
        family(first.config)  # raises, with the list of the supported ones
    heads = first.schema.tied if align not in KEEP_FORM else ()  # an alignment may untie them
    require_effect(recipe, [*first.schema.shapes, *heads])
    values = recipe.values(list(first.schema.shapes))
    dtypes = {member.dtype for member in group.members}
    named = getattr(torch, recipe.dtype) if recipe.dtype else None
    dtype = dtype or named or (dtypes.pop() if len(dtypes) == 1 else torch.float32)
    wanted = known if measure_spectrum is None else measure_spectrum
    asked = GroupSettings(align, soup, seed, str(dtype).removeprefix("torch."), command)
    if plain:
        return replace(_streamed(recipe, group, values, dtype, asked, began), inputs=inputs)
    if memory is None:
        group = replace(group, members=tuple(replace(m, state=dict(m.state)) for m in group.members))
    text: tuple[Blocks, ...] = ()
    if data:
        progress.stage("reading text")
        text = labelled_blocks(
            data,
            group.tokenizer(),
            context=int(first.config.max_position_embeddings),
            vocabulary=int(first.config.vocab_size),
            fit_tokens=fit_tokens(recipe, align, len(data)),
            select_tokens=tokens,
            report_tokens=tokens,
            seed=seed,
        )
    if memory is not None:
        lazy = Combined(recipe.operator, [m.state for m in group.members], values, seed=seed)
        found, state, scratch = measured_from_disk(recipe, group, lazy, text, memory, dtype, progress)
        gates.pass_loss(found.report())
        on_disk = Shown({part.label: part.report for part in text}, found.merge, memory)
        finished = _finished(recipe, group, state, dtype, asked, began, found, text, scratch, on_disk)
        return replace(finished, inputs=inputs)
    cook = Cook(recipe, group, text, device=device, seed=seed, progress=progress)
    universe, tried = cook.aligned(align, known=known)
    values = recipe.values(list(universe.states[0]))
    knowledge = cook.knowledge(universe)
    chosen: dict[str, Any] | None = None
    if soup != "uniform":
        recipe, chosen = cook.cooked(soup, universe, values, knowledge)
        values = recipe.values(list(universe.states[0]))
    combined, maker = Combined(recipe.operator, universe.states, values, seed=seed, known=knowledge), _maker(recipe)
    progress.stage(f"merging ({recipe.operator.name})", len(values))
    state = {}
    for name in values:
        state[name] = combined[name]
        progress.advance()
    require_writable(state, dtype, maker)

    measured: Among | None = None
    if text:
        measured = cook.measured(recipe, universe, rounded(state, dtype))
        gates.pass_loss(measured.report())

    ends = group.members[recipe.operator.needs_base :]
    verdict: SpectrumReport | None = None
    spectra: list[Spectrum] = []
    if wanted or gates.require_spectrum:
        progress.stage("measuring the spectrum", len(ends) + 1)
        for member in ends:
            spectra.append(spectrum(member.state, member.config))
            progress.advance()
        verdict = among(spectra, spectrum(state, universe.config), max_excess=max_excess, same_kind=same_kind)
        gates.pass_spectrum(verdict)
    prints = [fingerprint_of(m.state, m.config, one) for m, one in zip(ends, spectra, strict=True)] if spectra else []
    trained_by = _trained_by(recipe, group, prints)
    plane = None
    if text and len(ends) == 3:
        aligned = universe.states[recipe.operator.needs_base :]
        shares = recipe.plain_weights() if recipe.operator.name == "linear" else None
        try:
            plane = simplex_plane(aligned, shares, universe.config, text, device, progress)
        except BadInput:  # two of them are the same, or all lie on one line
            plane = None
    told: tuple[Sample, ...] = ()
    if text:
        progress.stage("writing samples")
        models = {letter(place): (member.state, member.config) for place, member in enumerate(ends[:3])}
        models["merge"] = (state, universe.config)
        told = samples(models, group.tokenizer(), {part.label: part.report for part in text}, seed=seed)
    facts = group.facts(universe.alignments[0].facts(first.facts) if universe.alignments else first.facts)
    report = group_record(
        group,
        recipe,
        trained_by,
        universe,
        measured,
        text,
        asked,
        seconds=time.monotonic() - began,
        verdict=verdict,
        tried=tried,
        chosen=chosen,
        plane=plane,
    )
    files, losses = group.small_files(), measured.merge if measured else None
    shown = Shown({part.label: part.report for part in text}, losses) if losses else None
    finished = Merge(ends, None, None, state, facts, dtype, files, report, {}, told)
    return replace(finished, inputs=inputs, shown=shown, maker=maker, base=_base(recipe, group))


def _maker(recipe: Recipe) -> str:
    return f"the merge by {recipe.operator.name}"


def _base(recipe: Recipe, group: Group) -> Checkpoint | None:
    return group.members[0] if recipe.operator.needs_base else None


def _streamed(
    recipe: Recipe,
    group: Group,
    values: Mapping[str, Mapping[str, Any]],
    dtype: torch.dtype,
    asked: GroupSettings,
    began: float,
) -> Merge:
    """The operator and nothing else: block by block when it is saved, no model ever in memory whole."""
    state = Combined(recipe.operator, [member.state for member in group.members], values, seed=asked.seed)
    return _finished(recipe, group, state, dtype, asked, began)


def _finished(
    recipe: Recipe,
    group: Group,
    state: Mapping[str, Tensor],
    dtype: torch.dtype,
    asked: GroupSettings,
    began: float,
    measured: Among | None = None,
    text: Sequence[Blocks] = (),
    scratch: Scratch | None = None,
    shown: Shown | None = None,
) -> Merge:
    """The merge of models that were never in memory, and its report."""
    trained_by, seconds = _trained_by(recipe, group, ()), time.monotonic() - began
    report = group_record(group, recipe, trained_by, None, measured, text, asked, seconds=seconds)
    ends, facts = group.members[recipe.operator.needs_base :], group.facts(group.members[0].facts)
    files, base = group.small_files(), _base(recipe, group)
    finished = Merge(ends, None, None, state, facts, dtype, files, report, {}, (), scratch=scratch, base=base)
    return replace(finished, shown=shown, maker=_maker(recipe))


def _trained_by(recipe: Recipe, group: Group, prints: Sequence[Fingerprint]) -> list[Evidence]:
    """The optimizers of all models but the base; by their weights, too, where fingerprints were taken."""
    said = group.provenance[recipe.operator.needs_base :]
    return [optimizer_of(one, prints[place] if prints else None) for place, one in enumerate(said)]


def _require_disk(
    recipe: Recipe, data: Sequence[str], align: GroupAlign, soup: Soup, gates: Gates, spectrum: bool | None
) -> None:
    """Raise BadInput for what cannot be done with models that do not fit into memory."""
    if not data:
        raise BadInput("--max-memory is for measuring: without --data, models never are in memory whole")
    asked = {
        f"--align {align}": align != "none",
        f"a {soup} soup": soup != "uniform",
        f"--method {recipe.operator.name}": recipe.operator.knows is not None,
        "the spectrum": bool(spectrum) or gates.require_spectrum,
    }
    for what, wanted in asked.items():
        if wanted:
            raise BadInput(f"{what} needs the models in memory: leave out that or --max-memory")


def _require_sense(recipe: Recipe, data: Sequence[str], align: GroupAlign, soup: Soup, gates: Gates) -> None:
    name = recipe.operator.name
    if not data and align == "auto":
        raise BadInput("without text alignments cannot be compared: add --data, or say --align none or orthogonal")
    if not data and align in LOOKING:
        raise BadInput(f"--align {align} looks at what the models do with text: add --data")
    if not data and recipe.operator.knows:
        raise BadInput(f"{name} weighs parameters by what they do on text: add --data")
    if not data and soup != "uniform":
        raise BadInput(f"a {soup} soup is chosen by the loss on text: add --data")
    if soup != "uniform" and "weight" not in recipe.operator.parameters:
        raise BadInput(f"{name} has no weights to choose")
    if soup != "uniform" and len(recipe.segments) > 1:
        raise BadInput("weights are chosen for whole models: not with slices")
    if soup != "uniform" and not recipe.weighs_alike:
        raise BadInput(f"the weights that are given and those of a {soup} soup contradict each other: leave one out")
    if not data and gates.need_loss:
        raise BadInput("--max-barrier and --require-gain need a loss: add --data")
