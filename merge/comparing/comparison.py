"""`isthmus compare`: methods side by side on the same text, each with weights that were searched for.

What chooses is never what reports: weights are learned on the fit text and chosen on the select text, or on half of the
documents of tasks, and so is the winner; losses and scores that are shown are those on the rest, and differences from
the plain average are paired by block and by document.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...checkpoint.card import letter
from ...checkpoint.config import build_config
from ...checkpoint.errors import BadInput, NotFinite
from ...checkpoint.loading import Checkpoint
from ...checkpoint.manifest import REPORT, sealed
from ...checkpoint.path_conflicts import Place
from ...checkpoint.redaction import redacted
from ...checkpoint.reference import parse_reference
from ...checkpoint.saving import atomic_directory, write_json
from ...checkpoint.serialization import digest
from ...eval.loss import Losses, LossMeter, ensemble_losses, per_block
from ...eval.progress import Progress
from ...eval.targets import lengths
from ...eval.tasks.specs import task_places, task_specs
from ...eval.tasks.task_set import Part, TaskScores, TaskSet
from ..by_operator import OperatorChooser
from ..job import Job, open_job, require_recipe, require_writing
from ..measure import rounded
from ..pipeline import build
from ..plans import MergePlan, SpectrumPlan
from ..reading import MergeText, text_of_model
from ..recipes.recipe import Recipe
from ..record import PARTS, record_of, versions
from ..reproduce import chosen_recipe, public_reference
from ..saved_path import endpoint_digests
from ..task_scores import module_of
from ..vocabulary import Whole
from .comparison_state import ComparisonState, MethodResult, Result
from .contestants import Contestant, contestants
from .estimate import Estimating
from .plan import ComparePlan
from .ranking import ENSEMBLE, compared, ranked

if TYPE_CHECKING:
    from torch import nn

RECIPE = "recipe.yml"


@dataclass(frozen=True)
class Comparison:
    """A comparison, not yet saved: `report` is what goes into isthmus.json, `inputs` what was read, `run` where it was
    kept while it went on.
    """

    report: dict[str, Any]
    inputs: tuple[Place, ...] = ()
    run: ComparisonState | None = None

    def save(self, directory: str | Path, *, overwrite: bool = False) -> None:
        """Write isthmus.json and the recipe of the winner: both, or nothing."""
        with atomic_directory(directory, overwrite=overwrite, inputs=self.inputs) as folder:
            lines = self.report["recipe"]
            (folder / RECIPE).write_text("\n".join(lines) + "\n", encoding="utf-8")
            write_json(folder / REPORT, sealed(redacted(self.report), folder))
        if self.run is not None:
            self.run.remove()


def compare(
    models: Sequence[str | Path],
    plan: ComparePlan,
    *,
    base: str | Path | None = None,
    beside: Path | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare methods of merging some models, those that need one on their `base`.

    `beside` is the output beside which what is done is kept while the comparison goes on, and resumed from. A method
    whose merge is not finite is listed as failed.

    Raises BadInput, before weights are read, for fewer than two models, for methods that do not take them or need a
    base that is not given; IncompatibleModels; what `merge_models` raises.
    """
    progress, began = progress or Progress(), time.monotonic()
    names = [str(model) for model in models]
    if len(names) < 2:
        raise BadInput("methods are compared on two models or more: give another one")
    entries = contestants(names, plan, None if base is None else str(base))
    contest = _Contest(plan, entries, beside, progress)
    report = contest.report(began)
    return Comparison(report, (*contest.places, *task_places(plan.tasks)), contest.state)


class _Contest:
    """One comparison: every method is merged, measured and let go of in turn."""

    def __init__(
        self, plan: ComparePlan, entries: Sequence[Contestant], beside: Path | None, progress: Progress
    ) -> None:
        self.plan, self.entries, self.beside, self.progress = plan, entries, beside, progress
        self.asked = MergePlan(
            data=plan.data,
            align="none",
            spectrum=SpectrumPlan(measure=False),
            tokens=plan.tokens,
            context=plan.context,
            dtype=plan.dtype,
            seed=plan.seed,
            device=plan.device,
        )
        self.tasks = None
        if plan.tasks:
            progress.stage("opening the tasks")
            choosing = plan.objective == "task"
            self.tasks = TaskSet(task_specs(plan.tasks), plan.task_path, choosing=choosing, seed=plan.seed)
        self.state: ComparisonState | None = None
        self.places: tuple[Place, ...] = ()
        self.texts: dict[int, MergeText] = {}

    def report(self, began: float) -> dict[str, Any]:
        """What goes into isthmus.json."""
        on_base = [one for one in self.entries if one.on_base]
        if on_base:  # checked before the work begins
            open_job(on_base[0].recipe, MergePlan(align="none", seed=self.plan.seed), None, Progress())
        job = self._opened(self.entries[0].recipe)
        context = job.inputs.context
        select = len(self.plan.data) * -(-self.plan.tokens // context)
        entries = [one.within(self.plan.evaluations, select) for one in self.entries]
        text = self._text(job, max(one.fit_tokens(self.asked, context) for one in entries))
        references = self._references(job, text)
        record = self._record(job, text)
        select, report = (sum(map(len, part.values())) for part in (text.select, text.report))
        costs = [one.cost(self.asked, context, select, report) for one in entries]
        estimating = Estimating(self.progress, [one.name for one in entries], costs)
        self.state = self._state(job, text)
        with self.state.claimed() if self.state is not None else nullcontext():
            kept = self.state.done() if self.state is not None else []
            done: list[MethodResult] = []
            self._run_all(job, [one for one in entries if not one.on_base], text, estimating, kept, done)
            del job  # before the models are opened beside their base
            if on_base:
                job = self._opened(on_base[0].recipe, again=True)
                references.append(self._base(job, text))
                self._run_all(job, [one for one in entries if one.on_base], text, estimating, kept, done)
        whole = {**record, **ranked(done, references, self.plan.objective)}
        return {**whole, "sentences": compared(whole), "seconds": round(time.monotonic() - began, 3)}

    def _record(self, job: Job, text: MergeText) -> dict[str, Any]:
        """What the report says before anything is compared."""
        return {
            "schema": 1,
            "command": "compare",
            "task": job.inputs.first.schema.task,
            "endpoints": [record_of(end) for end in job.ends],
            "objective": self.plan.objective,
            "evaluations": self.plan.evaluations,
            "tasks": self.tasks.record() if self.tasks is not None else [],
            "data": [
                {
                    "label": part.label,
                    **{f"{name}_tokens": int(lengths(getattr(part, name)).sum()) for name in PARTS},
                }
                for part in text.parts
            ],
            "settings": {"seed": self.plan.seed, "dtype": str(job.dtype).removeprefix("torch.")},
            "versions": versions(*(["lm_eval"] if self.tasks is not None else [])),
        }

    def _opened(self, recipe: Recipe, *, again: bool = False) -> Job:
        """The models of a recipe in memory; what `check` says of them is shown the first time."""
        job = replace(
            open_job(recipe, self.asked, None, Progress() if again else self.progress), progress=self.progress
        )
        if self.tasks is not None:
            require_writing(job.inputs)
        self.places += job.places
        return job

    def _text(self, job: Job, fitted: int) -> MergeText:
        """The text, with so many tokens of every label to fit on; what selects and reports is always the same."""
        plan = self.asked
        self.progress.stage("reading text")
        text = text_of_model(
            plan.data, job.inputs.tokenizer(), job.inputs.first.config, context=job.inputs.context, seed=plan.seed
        )
        tokens = plan.tokens
        return MergeText(text.blocks(fit_tokens=max(1, fitted), select_tokens=tokens, report_tokens=tokens))

    def _references(self, job: Job, text: MergeText) -> list[MethodResult]:
        """The models that are merged, and their ensemble."""
        members = [(end.state, end.config) for end in job.ends]
        self.progress.stage("measuring the models", len(members) * sum(map(len, text.report.values())))
        advance = self.progress.advance
        losses = [
            LossMeter(config, text.report, device=job.device, on_blocks=advance).token_losses(state)
            for state, config in members
        ]
        measured: dict[str, Losses] = {
            f"{letter(place)}: {end.name}": per_block(own)
            for place, (end, own) in enumerate(zip(job.ends, losses, strict=True))
        }
        measured[ENSEMBLE] = ensemble_losses(losses)
        scores: dict[str, TaskScores] = {}
        if self.tasks is not None:
            from ...eval.ensemble import Ensemble  # which imports all of transformers' modelling code

            self.progress.stage("asking the tasks", len(measured))
            modules = [*(module_of(*member) for member in members), Ensemble.of(members)]
            for name, module in zip(measured, modules, strict=True):
                scores[name] = self._scores(job, module, "report")
        return [
            MethodResult(name, Result({"report": own}, {"report": scores[name]} if scores else {}), {})
            for name, own in measured.items()
        ]

    def _scores(self, job: Job, module: nn.Module, part: Part) -> TaskScores:
        assert self.tasks is not None
        scores = self.tasks.scores(module, job.inputs.tokenizer(), part, context=job.inputs.context, device=job.device)
        self.progress.advance()
        return scores

    def _state(self, job: Job, text: MergeText) -> ComparisonState | None:
        """Where the comparison is kept, known by its models, text and settings; None without an output."""
        if self.beside is None:
            return None
        identity = {
            "models": endpoint_digests(job.inputs.members),
            "methods": [[one.name, one.recipe.to_dict(), repr(one.search)] for one in self.entries],
            "plan": [repr(replace(self.asked, data=())), self.plan.objective],
            "text": [digest(text.select), digest(text.report)],
            "tasks": self.tasks.record() if self.tasks is not None else [],
        }
        return ComparisonState.beside(self.beside, identity)

    def _run_all(
        self,
        job: Job,
        entries: Sequence[Contestant],
        text: MergeText,
        estimating: Estimating,
        kept: Sequence[MethodResult],
        done: list[MethodResult],
    ) -> None:
        """Add what comes of some methods to what is `done`; those that were `kept` of the same base are taken so."""
        base = endpoint_digests(job.inputs.members[: job.base])
        earlier = {one.name: one for one in kept if one.record.get("base") == base}
        for entry in entries:
            if entry.name in earlier:
                done.append(earlier[entry.name])
                continue
            estimating.begin(len(done))
            one = self._run(replace(job, progress=estimating), entry, text)
            done.append(replace(one, record={**one.record, "base": base}))
            estimating.end()
            if self.state is not None:
                self.state.keep(done)

    def _base(self, job: Job, text: MergeText) -> MethodResult:
        first = job.inputs.first
        self.progress.stage("measuring the base", sum(map(len, text.report.values())))
        meter = LossMeter(first.config, text.report, device=job.device, on_blocks=self.progress.advance)
        scores = {}
        losses = {"report": meter(first.state)}
        if self.tasks is not None:
            scores = {"report": self._scores(job, module_of(first.state, first.config), "report")}
        return MethodResult(f"base: {first.name}", Result(losses, scores), {})

    def _run(self, job: Job, one: Contestant, text: MergeText) -> MethodResult:
        """One method: its weights, its merge, and what that does on both parts of the text."""
        began, plan = time.monotonic(), one.plan(self.asked)
        require_recipe(one.recipe, plan, job.inputs)
        own = self._with_fit(job, text, one.fit_tokens(self.asked, job.inputs.context))
        job = replace(job, plan=plan, recipe=one.recipe)
        tasks = self.tasks if self.plan.objective == "task" else None
        chooser = OperatorChooser(job.inputs, own, plan, job.device, job.progress, one.recipe, tasks)
        try:
            choice = chooser.choose(chooser.align(in_table=job.in_table))
            whole = build(job, choice)
        except NotFinite as error:
            return MethodResult(one.name, None, {"seconds": round(time.monotonic() - began, 3)}, str(error))
        result = self._measured(job, whole, text)
        assert choice.recipe is not None
        names = {
            name: shown_reference(name, end)
            for name, end in zip(choice.recipe.ingredients, job.inputs.whole, strict=True)
        }
        usual = replace(plan, spectrum=SpectrumPlan())
        recipe, command = chosen_recipe(usual, choice.recipe, job.inputs, "none", names)
        chosen = choice.soup or {}
        record = {
            "search": chosen.get("search"),
            "granularity": chosen.get("granularity"),
            "tried": chosen.get("evaluations", 0),
            "weights": chosen.get("weights"),
            "recipe": recipe,
            "merge_command": command,
            "digest": digest({name: whole.state[name].to(job.dtype) for name in whole.state}),
            "seconds": round(time.monotonic() - began, 3),
        }
        return MethodResult(one.name, result, record)

    def _with_fit(self, job: Job, text: MergeText, fitted: int) -> MergeText:
        """The same text with so much to fit on as a merge by one method alone has."""
        if not fitted:
            return MergeText([replace(part, fit=part.fit[:0]) for part in text.parts])
        own = self.texts.get(fitted)
        if own is None:
            own = self.texts[fitted] = self._text(job, fitted)
        for mine, shared in zip(own.parts, text.parts, strict=True):
            assert torch.equal(mine.select, shared.select), "what chooses does not depend on what is fitted"
            assert torch.equal(mine.report, shared.report), "what reports does not depend on what is fitted"
        return MergeText(own.parts)

    def _measured(self, job: Job, whole: Whole, text: MergeText) -> Result:
        state, config = rounded(whole.state, job.dtype), build_config(whole.facts, "merge")
        parts = {"select": text.select, "report": text.report}
        job.progress.stage("measuring", sum(len(rows) for part in parts.values() for rows in part.values()))
        losses = {
            name: LossMeter(config, part, device=job.device, on_blocks=job.progress.advance)(state)
            for name, part in parts.items()
        }
        scores: dict[str, TaskScores] = {}
        if self.tasks is not None:
            asked: tuple[Part, ...] = ("select", "report") if self.plan.objective == "task" else ("report",)
            job.progress.stage("asking the tasks", len(asked))
            module = module_of(state, config)
            scores = {part: self._scores(job, module, part) for part in asked}
        return Result(losses, scores)


def shown_reference(given: str, model: Checkpoint) -> str:
    """A model in a recipe: a directory as it was given where that is relative, else as others can find it."""
    directory = parse_reference(given).directory
    is_relative = directory is not None and not directory.is_absolute() and not given.startswith("~")
    return given if is_relative else public_reference(model)
