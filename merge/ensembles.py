"""`isthmus ensemble`: members, soup, merge and ensemble on the same text and tasks, with what each costs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ..align.families import FAMILIES
from ..checkpoint.errors import BadInput, CorruptCheckpoint
from ..checkpoint.inputs import Inputs, open_inputs, tokenizer_owner
from ..checkpoint.loading import Checkpoint, load
from ..checkpoint.manifest import REPORT, sealed
from ..checkpoint.opening import open_source
from ..checkpoint.path_conflicts import Place, model_places
from ..checkpoint.saving import atomic_directory, write_json
from ..checkpoint.serialization import copy_small_files, digest
from ..checkpoint.size_limits import DOCUMENT, read_bytes
from ..checkpoint.small_files import CONFIGURATION
from ..checkpoint.strict_json import parse_object
from ..eval.corpora import text_places
from ..eval.loss import Losses, LossMeter, ensemble_losses, per_block
from ..eval.progress import Progress
from ..eval.targets import predicted, scores, shown
from ..eval.tasks.specs import task_places, task_specs
from ..eval.tasks.task_set import TaskScores, TaskSet
from ..eval.text import Blocks
from .by_operator import OperatorChooser
from .job import pick_device, require_writing
from .measured import losses_json
from .path import blend
from .plans import EnsemblePlan, MergePlan, refuse
from .reading import read_text
from .recipes.recipe import recipe
from .record import versions
from .saved_path import SavedPath, path_places, read_path
from .task_scores import module_of, paired_json

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from ..eval.ensemble import Average, Ensemble

FILE = "ensemble.json"
AVERAGES = ("probabilities", "logits")


@dataclass(frozen=True)
class Member:
    """One model of an ensemble: a checkpoint, or a point of a path."""

    name: str
    state: Mapping[str, Tensor]
    config: PretrainedConfig


@dataclass(frozen=True)
class EnsembleResult:
    """An ensemble, measured and not yet saved: its members, what isthmus.json holds, and how to find them again.

    `token_losses` are those of the members on the report part of `text`: label → (blocks, context − 1), in nats.
    `task_scores` are those of the report's `models`, in its order; none without tasks.
    """

    members: tuple[Member, ...]
    checkpoints: tuple[Checkpoint, ...]
    plan: EnsemblePlan
    report: dict[str, Any]
    files: Mapping[str, Path]
    token_losses: tuple[dict[str, Tensor], ...]
    text: tuple[Blocks, ...]
    inputs: tuple[Place, ...] = ()
    task_scores: tuple[TaskScores, ...] = ()

    def model(self) -> Ensemble:
        """The ensemble as one model of transformers."""
        return _ensemble_of(self.members, self.plan.average, self.checkpoints)

    def save(self, directory: str | Path, *, overwrite: bool = False) -> None:
        """Write what `load_ensemble` opens: where the members are, their digests, and the tokenizer. No weights.

        Raises BadInput for an output that exists, IsthmusError when the disk does not take it.
        """
        target, path, at = Path(directory).absolute(), self.plan.path, self.plan.at
        content = {
            "schema": 1,
            "average": self.plan.average,
            "members": [_found_again(checkpoint, target) for checkpoint in self.checkpoints],
            "path": os.path.relpath(path.absolute(), target) if path and at else None,
            "at": list(at),
        }
        with atomic_directory(target, overwrite=overwrite, inputs=self.inputs) as folder:
            write_json(folder / FILE, content)
            copy_small_files(folder, {name: file for name, file in self.files.items() if name != CONFIGURATION})
            write_json(folder / REPORT, sealed(self.report, folder))


def ensemble(
    models: Sequence[str | Path | Checkpoint], plan: EnsemblePlan, *, progress: Progress | None = None
) -> EnsembleResult:
    """Two or more models as an ensemble, beside their soup and their best weighted average, on the report text.

    Points of a saved path between the first two models are members, too, where the plan names some (Garipov et al.
    2018, arXiv 1802.10026); nothing is measured on text that trained it. ``soup`` is the plain average of the models
    after alignment, ``merge`` that with the weights that the select text asks for. Costs are forward passes and
    weights; seconds are those measured here, on the text. All of them are asked the plan's tasks, the ensemble with
    log p(y|x) = Σ_i log mean_m p_m(y_i|x, y_<i) of every continuation y of a prompt x (of logits, with their geometric
    mean).

    Raises BadInput for fewer than two members, for no text, and for points without a path; what `open_inputs`,
    `read_path` and `TaskSet` raise.
    """
    progress, began = progress or Progress(), time.monotonic()
    _require_sense(models, plan)
    places = tuple(model_places(models) + text_places(plan.data) + path_places(plan.path))
    places += tuple(task_places(plan.tasks))
    device = pick_device(plan.device)
    progress.stage("checking")
    tasks = TaskSet(task_specs(plan.tasks), plan.task_path, seed=plan.seed) if plan.tasks else None
    inputs = open_inputs(models, families=FAMILIES, longest=plan.context)
    progress.findings(inputs.findings)
    if inputs.first.schema.classifies:
        raise BadInput("ensembles are made of language models: `isthmus merge` measures that of classifiers")
    if tasks is not None:
        require_writing(inputs)
    places += tuple(model_places(inputs.whole))
    soup, saved = recipe("linear", [str(model) for model in models]), None
    if plan.path is not None:
        progress.stage("reading the path")
        saved = read_path(plan.path, *inputs.members[:2])
    merge = MergePlan(
        plan.data, align=plan.align, soup="search", tokens=plan.tokens, context=plan.context, seed=plan.seed
    )
    text, _ = read_text(merge, soup, inputs, device, progress, seen=saved.seen if saved else None)
    members = _members(inputs.members, plan.path, saved, plan.at)
    meter = _Meter(text.report, device, progress, inputs, tasks)
    rows = [meter.row(member.name, "member", member.state, member.config) for member in members]
    if len(models) > 1:
        rows += _merged(OperatorChooser(inputs, text, merge, device, progress, soup), meter)
    losses = meter.ensemble(members, plan.average)
    weights, seconds = (sum(row[name] for row in rows[: len(members)]) for name in ("weights", "seconds"))
    rows.append(_row(f"ensemble of all {len(members)}", "ensemble", losses, len(members), weights, seconds))
    gain = min(map(per_block, meter.token_losses[: len(members)]), key=lambda losses: losses.mean) - losses
    report = {
        "schema": 1,
        "command": "ensemble",
        "task": inputs.first.schema.task,
        "members": [{"ref": m.name, "revision": m.revision} for m in inputs.members],
        "findings": [asdict(finding) for finding in inputs.findings],
        "points": list(plan.at),
        "average": plan.average,
        "tasks": tasks.record() if tasks else [],
        "models": _with_scores(rows, meter.task_scores) if tasks else rows,
        "gain": gain.mean,
        "gain_stderr": gain.stderr,
        "data": [{"label": part.label, "report_tokens": part.report.numel()} for part in text.parts],
        "settings": {"seed": plan.seed, "align": plan.align},
        "seconds": round(time.monotonic() - began, 3),
        "versions": versions(*(["lm_eval"] if tasks else [])),
    }
    return EnsembleResult(
        tuple(members),
        inputs.members,
        plan,
        report,
        inputs.small_files(),
        tuple(meter.token_losses[: len(members)]),
        text.parts,
        places,
        tuple(meter.task_scores),
    )


def _row(name: str, kind: str, losses: Losses, passes: int, weights: int, seconds: float) -> dict[str, Any]:
    costs = {"passes": passes, "weights": weights, "seconds": round(seconds, 3)}
    return {"name": name, "kind": kind, **losses_json(losses), **costs}


def load_ensemble(directory: str | Path) -> Ensemble:
    """The ensemble saved in a directory, as a model of transformers that generates; its tokenizer is there, too.

    Raises BadInput when the directory holds none, or when a member's weights are not those it was saved with.
    """
    folder = Path(directory)
    try:
        content = read_bytes(folder / FILE, DOCUMENT, f"'{FILE}' in '{folder.name}'")
        facts = parse_object(content, f"'{FILE}'")
        entries = [(_reference(entry, folder), entry["sha256"]) for entry in facts["members"]]
        average, at, path = cast("Average", facts["average"]), [float(t) for t in facts["at"]], facts["path"]
        if not entries or average not in AVERAGES or not (path is None or isinstance(path, str)):
            raise ValueError("no members, or no such average or path")
    except (OSError, ValueError, KeyError, TypeError, CorruptCheckpoint):
        raise BadInput(f"'{folder.resolve().name}' holds no ensemble saved by isthmus, or a damaged one") from None
    checkpoints = []
    for reference, sha in entries:
        checkpoint = load(reference, families=FAMILIES)
        if digest(checkpoint.state) != sha:
            raise BadInput(
                f"the weights of '{checkpoint.name}' were changed since the ensemble was saved: save it again"
            )
        checkpoints.append(checkpoint)
    place = None if path is None else folder / path
    saved = None if place is None else read_path(place, *checkpoints[:2])
    return _ensemble_of(_members(checkpoints, place, saved, at), average, checkpoints)


def _members(
    models: Sequence[Checkpoint], path: Path | None, saved: SavedPath | None, at: Sequence[float]
) -> list[Member]:
    members = [Member(model.name, dict(model.state), model.config) for model in models]
    if path is not None and saved is not None:
        aligned = saved.alignment.config(models[0].config)
        members += [Member(f"{path.name} at t = {t:g}", dict(saved.path(t)), aligned) for t in at]
    return members


def _ensemble_of(members: Sequence[Member], average: Average, models: Sequence[Checkpoint] = ()) -> Ensemble:
    """The members as one model of transformers, which generates as `models` do."""
    from ..eval.ensemble import Ensemble

    states = [(member.state, member.config) for member in members]
    return Ensemble.of(states, average, generation=tokenizer_owner(models).generation() if models else None)


@dataclass
class _Meter:
    """Losses on the report text, with what they cost, and scores on tasks."""

    parts: Mapping[str, Tensor]
    device: str
    progress: Progress
    inputs: Inputs
    tasks: TaskSet | None = None
    token_losses: list[dict[str, Tensor]] = field(default_factory=list)
    task_scores: list[TaskScores] = field(default_factory=list)

    def row(self, name: str, kind: str, state: Mapping[str, Tensor], config: PretrainedConfig) -> dict[str, Any]:
        self.progress.stage(f"measuring {name}", sum(map(len, self.parts.values())))
        meter = LossMeter(config, self.parts, device=self.device, on_blocks=self.progress.advance)
        state, began = {key: state[key] for key in state}, time.monotonic()
        self.token_losses.append(meter.token_losses(state))
        seconds = time.monotonic() - began
        losses = per_block(self.token_losses[-1])
        self.ask(name, lambda: module_of(state, config))
        return _row(name, kind, losses, 1, sum(tensor.numel() for tensor in state.values()), seconds)

    def ask(self, name: str, model: Callable[[], nn.Module]) -> None:
        """Ask a model the tasks, if there are any."""
        if self.tasks is not None:
            self.progress.stage(f"asking {name} the tasks")
            tokenizer, context = self.inputs.tokenizer(), self.inputs.context
            self.task_scores.append(self.tasks.scores(model(), tokenizer, context=context, device=self.device))

    def ensemble(self, members: Sequence[Member], average: Average) -> Losses:
        """The losses of the ensemble; of probabilities from what is known, of logits by passes of their own."""
        self.ask("the ensemble", lambda: _ensemble_of(members, average))
        if average == "probabilities":
            return ensemble_losses(self.token_losses[: len(members)])
        model, losses = _ensemble_of(members, average), {}
        for label, blocks in self.parts.items():
            with torch.no_grad():
                log_probs = [
                    scores(model(shown(ids)).logits, ids).gather(2, predicted(ids)[..., None]).double().mean()
                    for ids in blocks.split(1)
                ]
            losses[label] = -torch.stack(log_probs)
        return Losses(losses)


def _merged(chooser: OperatorChooser, meter: _Meter) -> list[dict[str, Any]]:
    aligned = chooser.align(in_table=chooser.inputs.first.schema.aligns)
    count = len(chooser.recipe.models)
    rows = [meter.row("soup", "soup", blend(aligned.states, [1 / count] * count), aligned.config)]
    choice = chooser.choose(aligned)
    assert choice.soup is not None
    rows.append({**meter.row("merge", "merge", choice.state, aligned.config), "merge_weights": choice.soup["weights"]})
    return [{**row, "alignment": aligned.alignment.method} for row in rows]


def _with_scores(rows: Sequence[dict[str, Any]], scores: Sequence[TaskScores]) -> list[dict[str, Any]]:
    """The rows of models with what these score on tasks; of what is no member also against the best one, and of the
    ensemble against the merge.
    """
    kinds = [row["kind"] for row in rows]
    gain = {"gain": [own for kind, own in zip(kinds, scores, strict=True) if kind == "member"]}
    against = {"member": {}, "ensemble": gain | {"over_merge": [scores[kinds.index("merge")]]}}
    return [
        {**row, "tasks": paired_json(own, against.get(row["kind"], gain))}
        for row, own in zip(rows, scores, strict=True)
    ]


def _reference(entry: Mapping[str, Any], folder: Path) -> str | Path:
    """A member of the ensemble in a folder, as `load` takes it."""
    place = folder / str(entry["ref"]) if entry["local"] else str(entry["ref"])
    return f"{place}+{_reference(entry['adapter'], folder)}" if "adapter" in entry else place


def _found_again(checkpoint: Checkpoint, target: Path) -> dict[str, Any]:
    """How a member is found from the directory of the ensemble, and known again."""
    source = checkpoint.source or open_source(checkpoint.place)
    places: list[dict[str, Any]] = []
    for part in source.parts:
        directory = part.reference.directory
        place = None if directory is None else directory / (part.reference.file or "")
        ref = part.permanent_name if place is None else os.path.relpath(place.absolute(), target)
        places.append({"ref": ref, "local": place is not None})
    adapter = {"adapter": places[1]} if len(places) > 1 else {}
    return {**places[0], **adapter, "sha256": digest(checkpoint.state)}


def _require_sense(models: Sequence[object], plan: EnsemblePlan) -> None:
    task_specs(plan.tasks)
    outside = [t for t in plan.at if not 0 <= t <= 1]
    farthest = max(plan.at, key=lambda t: abs(t - 0.5), default=0.5)
    refuse(
        {
            "an ensemble has two members or more": len(models) + len(plan.at) < 2,
            "a loss needs text: add --data (for instance --data stdlib:docs)": not plan.data,
            "--task-path is for --task: name a task of it, or leave it out": bool(plan.task_path) and not plan.tasks,
            "points of a path are members with --path, its directory, and --at, a t: give both": bool(plan.path)
            != bool(plan.at),
            "a path leads from the first model to the second: give both": plan.path is not None and len(models) < 2,
            f"--at is a point of the path, from 0 to 1; got {farthest:g}": bool(outside),
            f"--average is one of {', '.join(AVERAGES)}; got '{plan.average}'": plan.average not in AVERAGES,
        }
    )
