"""`isthmus ensemble`: members, soup, merge and ensemble on the same text, with what each costs."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ..align.families import FAMILIES
from ..checkpoint.digest import digest
from ..checkpoint.errors import BadInput, CorruptCheckpoint
from ..checkpoint.group import Group, open_group, tokenizer_owner
from ..checkpoint.loading import Checkpoint, load
from ..checkpoint.manifest import REPORT, sealed
from ..checkpoint.path_conflicts import Place, model_places
from ..checkpoint.reference import parse_reference
from ..checkpoint.saving import atomic_directory, copy_small_files, write_json
from ..checkpoint.size_limits import DOCUMENT, read_bytes
from ..checkpoint.small_files import CONFIGURATION
from ..checkpoint.strict_json import parse_object
from ..eval.loss import Losses, LossMeter, ensemble_losses, per_block
from ..eval.text import Blocks, labelled_blocks, text_places
from .combined import Combined
from .cook import Cook, GroupAlign, fit_tokens
from .measure import losses_json
from .path import Blend
from .pipeline import pick_device
from .progress import Progress
from .recipe import Recipe, recipe
from .stored import StoredPath, path_places, read_path

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
    """

    members: tuple[Member, ...]
    checkpoints: tuple[Checkpoint, ...]
    path: Path | None
    at: tuple[float, ...]
    average: Average
    report: dict[str, Any]
    files: Mapping[str, Path]
    token_losses: tuple[dict[str, Tensor], ...]
    text: tuple[Blocks, ...]
    inputs: tuple[Place, ...] = ()

    def model(self) -> Ensemble:
        """The ensemble as one model of transformers."""
        from ..eval.ensemble import Ensemble

        states = [(member.state, member.config) for member in self.members]
        return Ensemble.of(states, self.average, generation=tokenizer_owner(self.checkpoints).generation())

    def save(self, directory: str | Path, *, overwrite: bool = False) -> None:
        """Write what `load_ensemble` opens: where the members are, their digests, and the tokenizer. No weights.

        Raises BadInput for an output that exists, IsthmusError when the disk does not take it.
        """
        target = Path(directory).absolute()
        content = {
            "schema": 1,
            "average": self.average,
            "members": [_found_again(checkpoint, target) for checkpoint in self.checkpoints],
            "path": os.path.relpath(self.path.absolute(), target) if self.path and self.at else None,
            "at": list(self.at),
        }
        with atomic_directory(target, overwrite=overwrite, inputs=self.inputs) as folder:
            write_json(folder / FILE, content)
            copy_small_files(folder, {name: file for name, file in self.files.items() if name != CONFIGURATION})
            write_json(folder / REPORT, sealed(self.report, folder))


def ensemble(
    models: Sequence[str | Path | Checkpoint],
    *,
    data: Sequence[str],
    path: Path | None = None,
    at: Sequence[float] = (),
    average: Average = "probabilities",
    align: GroupAlign = "auto",
    tokens: int = 8192,
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> EnsembleResult:
    """Two or more models as an ensemble, beside their soup and their best weighted average, on the report text.

    `path` is the directory of a path between the first two models, of which the points `at` are members, too (Garipov
    et al. 2018, arXiv 1802.10026); nothing is measured on text that trained it. ``soup`` is the plain average of the
    models after alignment, ``merge`` that with the weights that the select text asks for. Costs are forward passes and
    weights; seconds are those measured here.

    Raises BadInput for fewer than two members, for no text, and for points without a path; what `open_group` and
    `read_path` raise.
    """
    progress, began = progress or Progress(), time.monotonic()
    _require_sense(models, data, path, at, average)
    inputs = tuple(model_places(models) + text_places(data) + path_places(path))
    device = pick_device(device)
    progress.stage("checking")
    group = open_group(models, families=FAMILIES)
    progress.findings(group.findings)
    first = group.members[0]
    plan, stored = recipe("linear", [str(model) for model in models]), None
    if path is not None:
        progress.stage("reading the path")
        stored = read_path(path, *group.members[:2])
    progress.stage("reading text")
    text = labelled_blocks(
        data,
        group.tokenizer(),
        context=int(first.config.max_position_embeddings),
        vocabulary=int(first.config.vocab_size),
        fit_tokens=fit_tokens(plan, align, len(data)),
        select_tokens=tokens,
        report_tokens=tokens,
        seed=seed,
        seen=stored.seen if stored else None,
    )
    members = [Member(member.name, dict(member.state), member.config) for member in group.members]
    if path is not None and stored is not None:
        members += _points(path.name, stored, at, first.config)
    meter = _Meter(text, device, progress)
    rows = [meter.row(member.name, "member", member.state, member.config) for member in members]
    if len(models) > 1:
        rows += _merged(plan, group, text, align, meter, device, seed, progress)
    found = meter.ensemble(members, average)
    best = min(meter.losses[: len(members)], key=lambda losses: losses.mean)
    gain = best - found
    total = sum(row["weights"] for row in rows[: len(members)])
    seconds = sum(row["seconds"] for row in rows[: len(members)])
    rows.append(
        {
            "name": f"ensemble of all {len(members)}",
            "kind": "ensemble",
            **losses_json(found),
            "passes": len(members),
            "weights": total,
            "seconds": round(seconds, 3),
        }
    )
    report = {
        "schema": 1,
        "command": "ensemble",
        "members": [{"ref": m.name, "revision": m.revision} for m in group.members],
        "findings": [asdict(finding) for finding in group.findings],
        "points": list(at),
        "average": average,
        "models": rows,
        "gain": gain.mean,
        "gain_stderr": gain.stderr,
        "data": [{"label": part.label, "report_tokens": part.report.numel()} for part in text],
        "settings": {"seed": seed, "align": align},
        "seconds": round(time.monotonic() - began, 3),
        "versions": {name: version(name) for name in ("isthmus", "torch", "transformers")},
    }
    return EnsembleResult(
        tuple(members),
        group.members,
        path,
        tuple(at),
        average,
        report,
        group.small_files(),
        tuple(meter.token_losses[: len(members)]),
        text,
        inputs,
    )


def load_ensemble(directory: str | Path) -> Ensemble:
    """The ensemble saved in a directory, as a model of transformers that generates; its tokenizer is there, too.

    Raises BadInput when the directory holds none, or when a member's weights are not those it was saved with.
    """
    from ..eval.ensemble import Ensemble

    folder = Path(directory)
    try:
        content = read_bytes(folder / FILE, DOCUMENT, f"'{FILE}' in '{folder.name}'")
        facts = parse_object(content, f"'{FILE}'")
        said = [(str(entry["ref"]), bool(entry["local"]), entry["sha256"]) for entry in facts["members"]]
        average, at, path = cast("Average", facts["average"]), [float(t) for t in facts["at"]], facts["path"]
        if not said or average not in AVERAGES or not (path is None or isinstance(path, str)):
            raise ValueError("no members, or no such average or path")
    except (OSError, ValueError, KeyError, TypeError, CorruptCheckpoint):
        raise BadInput(f"'{folder.resolve().name}' holds no ensemble saved by isthmus, or a damaged one") from None
    checkpoints = []
    for reference, local, sha in said:
        checkpoint = load(folder / reference if local else reference, families=FAMILIES)
        if digest(checkpoint.state) != sha:
            raise BadInput(
                f"the weights of '{checkpoint.name}' were changed since the ensemble was saved: save it again"
            )
        checkpoints.append(checkpoint)
    members = [Member(one.name, dict(one.state), one.config) for one in checkpoints]
    if path is not None:
        stored = read_path(folder / path, *checkpoints[:2])
        members += _points(Path(path).name, stored, at, checkpoints[0].config)
    states = [(member.state, member.config) for member in members]
    return Ensemble.of(states, average, generation=tokenizer_owner(checkpoints).generation())


class _Meter:
    """Losses on the report text, with what they cost."""

    def __init__(self, text: Sequence[Blocks], device: str, progress: Progress):
        self.parts = {part.label: part.report for part in text}
        self.device, self.progress = device, progress
        self.token_losses: list[dict[str, Tensor]] = []
        self.losses: list[Losses] = []

    def row(self, name: str, kind: str, state: Mapping[str, Tensor], config: PretrainedConfig) -> dict[str, Any]:
        """One model's line of the table."""
        self.progress.stage(f"measuring {name}", sum(map(len, self.parts.values())))
        meter = LossMeter(config, self.parts, device=self.device, on_blocks=self.progress.advance)
        state, began = {key: state[key] for key in state}, time.monotonic()
        self.token_losses.append(meter.token_losses(state))
        seconds = time.monotonic() - began
        self.losses.append(per_block(self.token_losses[-1]))
        weights = sum(tensor.numel() for tensor in state.values())
        return {
            "name": name,
            "kind": kind,
            **losses_json(self.losses[-1]),
            "passes": 1,
            "weights": weights,
            "seconds": round(seconds, 3),
        }

    def ensemble(self, members: Sequence[Member], average: Average) -> Losses:
        """The losses of the ensemble; of probabilities from what is known, of logits by passes of their own."""
        if average == "probabilities":
            return ensemble_losses(self.token_losses[: len(members)])
        from ..eval.ensemble import Ensemble

        model = Ensemble.of([(member.state, member.config) for member in members], average)
        return _passed_through(model, self.parts)


def _passed_through(model: Ensemble, parts: Mapping[str, Tensor]) -> Losses:
    """The losses of an ensemble by its own forward passes, block by block."""
    found = {}
    with torch.no_grad():
        for label, blocks in parts.items():
            said = [model(ids[None]).logits[0, :-1].gather(1, ids[1:, None]).double().mean() for ids in blocks]
            found[label] = -torch.stack(said)
    return Losses(found)


def _merged(
    plan: Recipe,
    group: Group,
    text: Sequence[Blocks],
    align: GroupAlign,
    meter: _Meter,
    device: str,
    seed: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """The lines of the soup and of the merge."""
    cook = Cook(plan, group, text, device=device, seed=seed, progress=progress)
    universe, _ = cook.aligned(align, known=group.members[0].model_type in FAMILIES)
    count = len(plan.models)
    rows = [meter.row("soup", "soup", Blend(universe.states, [1 / count] * count), universe.config)]
    names = list(universe.states[0])
    found, chosen = cook.cooked("search", universe, plan.values(names), ())
    state = Combined(found.operator, universe.states, found.values(names))
    rows.append({**meter.row("merge", "merge", state, universe.config), "merge_weights": chosen["weights"]})
    method = universe.alignments[0].method
    return [{**row, "alignment": method} for row in rows]


def _points(name: str, stored: StoredPath, at: Sequence[float], config: PretrainedConfig) -> list[Member]:
    """Points of a saved path between the first two models."""
    aligned = stored.alignment.config(config)
    return [Member(f"{name} at t = {t:g}", dict(stored.path(t)), aligned) for t in at]


def _found_again(checkpoint: Checkpoint, target: Path) -> dict[str, Any]:
    """How a member is found from the directory of the ensemble, and known again."""
    reference = parse_reference(checkpoint.reference)
    local = reference.directory is not None
    ref = (
        os.path.relpath(reference.directory.absolute(), target) if reference.directory is not None else checkpoint.name
    )
    if not local and checkpoint.revision:
        from .command import public_reference

        ref = public_reference(checkpoint)
    return {"ref": ref, "local": local, "sha256": digest(checkpoint.state)}


def _require_sense(
    models: Sequence[object], data: Sequence[str], path: Path | None, at: Sequence[float], average: str
) -> None:
    if len(models) + len(at) < 2:
        raise BadInput("an ensemble has two members or more")
    if not data:
        raise BadInput("a loss needs text: add --data (for instance --data stdlib:docs)")
    if bool(path) != bool(at):
        raise BadInput("points of a path are members with --path, its directory, and --at, a t: give both")
    if path is not None and len(models) < 2:
        raise BadInput("a path leads from the first model to the second: give both")
    if any(not 0 <= t <= 1 for t in at):
        raise BadInput(f"--at is a point of the path, from 0 to 1; got {max(at, key=lambda t: abs(t - 0.5)):g}")
    if average not in AVERAGES:
        raise BadInput(f"--average is one of {', '.join(AVERAGES)}; got '{average}'")
