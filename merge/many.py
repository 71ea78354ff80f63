"""Any number of models: check → load → align → weights → operator → gates → spectrum → a result that can be saved."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from isthmus.align.alignment import LOOKING, Method
from isthmus.align.families import FAMILIES, family
from isthmus.align.universe import Universe, align_all
from isthmus.checkpoint.errors import BadInput
from isthmus.checkpoint.group import Group, open_group
from isthmus.eval.loss import Losses, LossMeter, ensemble_losses, per_block
from isthmus.eval.samples import Sample, samples
from isthmus.eval.spectrum import MAX_EXCESS, SAME_KIND, Spectrum, SpectrumReport, among
from isthmus.eval.text import Blocks, labelled_blocks
from isthmus.merge.combined import Combined, Known
from isthmus.merge.command import combine_command
from isthmus.merge.gates import Gates
from isthmus.merge.measure import Among, rounded, weighed
from isthmus.merge.path import Blend
from isthmus.merge.pipeline import pick_device
from isthmus.merge.progress import Progress
from isthmus.merge.provenance import fingerprint_of, optimizer_of
from isthmus.merge.recipe import Recipe, Segment, Setting
from isthmus.merge.record import GroupSettings, group_record
from isthmus.merge.result import Merge
from isthmus.merge.soup import Kitchen, Soup
from isthmus.merge.spectra import spectrum
from isthmus.merge.statistics import fisher_diagonal, input_moments

if TYPE_CHECKING:
    from transformers import PretrainedConfig

GroupAlign = Literal["auto", "none", "permutation", "orthogonal", "activations", "combined"]
CLIMB: tuple[Method, ...] = ("none", "orthogonal", "combined")
LOOKED_AT = 16_384  # tokens whose activations are matched
KNOWN_FROM = 16_384  # tokens that statistics are taken from
SURE = 2.0


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

    `dtype` is what the result is saved in: by default the recipe's, else the models' own when they share one, else
    float32.

    Raises IncompatibleModels before any weight is read; GateRefused, with nothing saved, when a gate refuses; BadInput,
    UnsupportedFamily, CorruptCheckpoint, AlignmentError.
    """
    arguments, began = dict(locals()), time.monotonic()
    progress = progress or Progress()
    _require_sense(recipe, data, align, soup, gates)
    device = pick_device(device)
    progress.stage("checking")
    group = open_group(recipe.ingredients, tokenizer_of=recipe.tokenizer, families=FAMILIES)
    defaults = {name: parameter.default for name, parameter in signature(combine).parameters.items()}
    command = combine_command(recipe, group, arguments, defaults)
    first = group.members[0]
    known = first.model_type in FAMILIES
    if not known and (
        align not in ("auto", "none") or measure_spectrum or gates.require_spectrum or recipe.operator.knows
    ):
        family(first.config)  # raises, with the list of the supported ones
    layers = int(getattr(first.config, "num_hidden_layers", 0) or 0)
    values = recipe.values(list(first.schema.shapes), layers)
    dtypes = {member.dtype for member in group.members}
    named = getattr(torch, recipe.dtype) if recipe.dtype else None
    dtype = dtype or named or (dtypes.pop() if len(dtypes) == 1 else torch.float32)
    wanted = known if measure_spectrum is None else measure_spectrum
    in_memory = bool(data) or align != "none" or measure_spectrum or gates.require_spectrum
    if in_memory:
        group = replace(group, members=tuple(replace(m, state=dict(m.state)) for m in group.members))
    text: tuple[Blocks, ...] = ()
    if data:
        progress.stage("reading text")
        text = labelled_blocks(
            data,
            group.tokenizer(),
            context=int(first.config.max_position_embeddings),
            vocabulary=int(first.config.vocab_size),
            fit_tokens=_fit_tokens(recipe, align, len(data)),
            select_tokens=tokens,
            report_tokens=tokens,
            seed=seed,
        )
    cook = _Cook(recipe, group, text, device=device, seed=seed, progress=progress)
    universe, tried = cook.aligned(align, known=known)
    values = recipe.values(list(universe.states[0]), layers)
    knowledge = cook.knowledge(universe)
    chosen: dict[str, Any] | None = None
    if soup != "uniform":
        recipe, chosen = cook.cooked(soup, universe, values, knowledge)
        values = recipe.values(list(universe.states[0]), layers)
    state: Mapping[str, Tensor] = Combined(recipe.operator, universe.states, values, seed=seed, known=knowledge)
    if in_memory:
        progress.stage(f"merging ({recipe.operator.name})", len(values))
        merged = {}
        for name in values:
            merged[name] = state[name]
            progress.advance()
        state = merged

    measured: Among | None = None
    if text:
        measured = cook.measured(recipe, universe, rounded(state, dtype))
        gates.pass_loss(measured.report())

    ends = group.members[recipe.operator.needs_base :]
    verdict: SpectrumReport | None = None
    found: list[Spectrum] = []
    if in_memory and (wanted or gates.require_spectrum):
        progress.stage("measuring the spectrum", len(ends) + 1)
        for member in ends:
            found.append(spectrum(member.state, member.config))
            progress.advance()
        verdict = among(found, spectrum(state, universe.config), max_excess=max_excess, same_kind=same_kind)
        gates.pass_spectrum(verdict, max_excess)
    trained_by = []
    for index, member in enumerate(ends):
        prints = fingerprint_of(member.state, member.config, found[index]) if found else None
        trained_by.append(optimizer_of(group.provenance[recipe.operator.needs_base + index], prints))
    told: tuple[Sample, ...] = ()
    if text:
        progress.stage("writing samples")
        models = {chr(65 + i): (member.state, member.config) for i, member in enumerate(ends[:3])}
        models["merge"] = (state, universe.config)
        told = samples(models, group.tokenizer(), {part.label: part.report for part in text}, seed=seed)
    facts = universe.alignments[0].facts(first.facts) if universe.alignments else dict(first.facts)
    report = group_record(
        group,
        recipe,
        trained_by,
        universe,
        measured,
        text,
        GroupSettings(align, soup, seed, str(dtype).removeprefix("torch."), command),
        seconds=time.monotonic() - began,
        verdict=verdict,
        tried=tried,
        chosen=chosen,
    )
    alignment = universe.alignments[0] if universe.alignments else None
    return Merge(ends, alignment, None, state, facts, dtype, group.small_files(), report, {}, told)


class _Cook:
    """One group of models, its text, and what is tried with them."""

    def __init__(
        self,
        recipe: Recipe,
        group: Group,
        text: Sequence[Blocks],
        *,
        device: str,
        seed: int,
        progress: Progress,
    ):
        self.recipe, self.group, self.text = recipe, group, text
        self.device, self.seed, self.progress = device, seed, progress
        self.states = [member.state for member in group.members]
        self.config: PretrainedConfig = group.members[0].config
        self.select = {part.label: part.select for part in text}
        self.base = int(recipe.operator.needs_base)

    def aligned(self, align: GroupAlign, *, known: bool) -> tuple[Universe, dict[str, float]]:
        """The models next to each other, and the loss of their plain average on the select text by what was tried."""
        if align != "auto":
            return self._universe(align), {}
        best, tried = self._universe("none"), {}
        lowest = self._average(best)
        tried["none"] = lowest.mean
        meter = LossMeter(self.config, self.select, device=self.device)
        members = [meter(state) for state in self.states[self.base :]]
        excess = lowest - weighed(members, [1 / len(members)] * len(members))
        if excess.mean <= SURE * excess.stderr:
            return best, tried
        for method in CLIMB[1:] if known else ():
            other = self._universe(method)
            losses = self._average(other)
            tried[method] = losses.mean
            better = lowest - losses
            if better.mean <= SURE * better.stderr:
                break
            best, lowest = other, losses
        return best, tried

    def _universe(self, method: Method) -> Universe:
        if method != "none":
            self.progress.stage(f"aligning ({method})")
        ids = None
        if method in LOOKING:
            rows = -(-LOOKED_AT // (len(self.text) * self.text[0].fit.shape[1]))
            ids = torch.cat([part.fit[:rows] for part in self.text])
        return align_all(self.states, self.config, method, ids=ids, seed=self.seed, on_match=self.progress.advance)

    def _average(self, universe: Universe) -> Losses:
        states = universe.states[self.base :]
        self.progress.stage("choosing the alignment", sum(map(len, self.select.values())))
        meter = LossMeter(universe.config, self.select, device=self.device, on_blocks=self.progress.advance)
        return meter(Blend(states, [1 / len(states)] * len(states)))

    def knowledge(self, universe: Universe) -> Known:
        """The statistics that the operator wants, of every model where it lies now."""
        kind = self.recipe.operator.knows
        if kind is None:
            return ()
        rows = max(1, KNOWN_FROM // (len(self.text) * self.text[0].fit.shape[1]))
        ids = torch.cat([part.fit[:rows] for part in self.text])
        self.progress.stage(f"statistics for {self.recipe.operator.name}", len(universe.states) * len(ids))
        if kind == "fisher":
            return [
                fisher_diagonal(
                    state, universe.config, ids, seed=self.seed, device=self.device, on_block=self.progress.advance
                )
                for state in universe.states
            ]
        table = family(universe.config)
        return [
            input_moments(state, universe.config, table, ids, on_block=self.progress.advance)
            for state in universe.states
        ]

    def cooked(
        self, soup: Soup, universe: Universe, values: Mapping[str, Mapping[str, Any]], known: Known
    ) -> tuple[Recipe, dict[str, Any]]:
        """The recipe with the weights that the select text asks for, and what the report says of them."""
        operator, count = self.recipe.operator, len(self.recipe.models)
        meter = LossMeter(universe.config, self.select, device=self.device)

        def measure(weights: tuple[float, ...]) -> Losses:
            self.progress.advance()
            weighed = {name: {**given, "weight": list(weights)} for name, given in values.items()}
            return meter(Combined(operator, universe.states, weighed, seed=self.seed, known=known))

        self.progress.stage(f"choosing weights ({soup})")
        kitchen = Kitchen(measure, count, simplex=not self.base)
        weights = kitchen.greedy() if soup == "greedy" else kitchen.search()
        each = tuple({"weight": Setting.of(weight)} for weight in weights)
        shared = {key: setting for key, setting in self.recipe.shared.items() if key != "weight"}
        own = self.recipe.segments[0].each or ({},) * count
        each = tuple({**mine, **new} for mine, new in zip(own, each, strict=True))
        found = replace(self.recipe, shared=shared, segments=(Segment(each=each),))
        return found, {
            "kind": soup,
            "weights": list(weights),
            "evaluations": len(kitchen.found),
            "select_loss": kitchen.loss(weights),
            "select_loss_uniform": kitchen.loss(kitchen.uniform()),
        }

    def measured(self, recipe: Recipe, universe: Universe, merged: Mapping[str, Tensor]) -> Among:
        """All models, their averages, their ensemble and the merge on the report text."""
        parts = {part.label: part.report for part in self.text}
        states, aligned = self.states[self.base :], universe.states[self.base :]
        moved = bool(universe.alignments) and universe.alignments[0].method != "none"
        passes = len(states) + 2 + moved + self.base
        self.progress.stage("measuring on the report text", passes * sum(map(len, parts.values())))
        meter = LossMeter(self.config, parts, device=self.device, on_blocks=self.progress.advance)
        members = [meter.token_losses(state) for state in states]
        even = [1 / len(states)] * len(states)
        naive = meter(Blend(states, even))
        base = meter(self.states[0]) if self.base else None
        meter = LossMeter(universe.config, parts, device=self.device, on_blocks=self.progress.advance)
        average = meter(Blend(aligned, even)) if moved else naive
        losses = tuple(per_block(member) for member in members)
        shares = recipe.plain_weights() or even
        return Among(losses, tuple(shares), base, naive, average, meter(merged), ensemble_losses(members))


def _fit_tokens(recipe: Recipe, align: GroupAlign, labels: int) -> int:
    """The tokens of every label that are looked at before anything is chosen."""
    wanted = [KNOWN_FROM] * (recipe.operator.knows is not None) + [LOOKED_AT] * (align == "auto" or align in LOOKING)
    return -(-max(wanted) // labels) if wanted else 0


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
    if not data and gates.need_loss:
        raise BadInput("--max-barrier and --require-gain need a loss: add --data")
