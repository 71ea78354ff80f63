"""`isthmus plane`: the loss on the plane through three models, and through a bent path."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..align.families import FAMILIES
from ..align.pipeline import align_states
from ..checkpoint.errors import BadInput
from ..checkpoint.inputs import open_inputs
from ..checkpoint.loading import Checkpoint
from ..checkpoint.manifest import REPORT, sealed
from ..checkpoint.path_conflicts import Place, model_places
from ..checkpoint.saving import atomic_directory, write_json
from ..eval.corpora import text_places
from ..eval.loss import LossMeter
from ..eval.plane import Plane, measure_plane
from ..eval.progress import Progress
from ..eval.report import render_report
from .job import pick_device
from .path import WeightPath, coefficients
from .plans import PlanePlan
from .reading import text_of_model
from .record import versions
from .search import grid

if TYPE_CHECKING:
    from transformers import PretrainedConfig

RESOLUTION = 13
BLOCKS = 8
CURVE_POINTS = 41


@dataclass(frozen=True)
class LossPlane:
    """A plane that was measured, not yet saved: `report` is what goes into isthmus.json, `inputs` what was read."""

    plane: Plane
    report: dict[str, Any]
    inputs: tuple[Place, ...] = ()

    def save(self, directory: str | Path, *, overwrite: bool = False) -> None:
        """Write isthmus.json, report.html and plane.png: whole, or not at all."""
        from ..eval.figures import plane_figure, png

        with atomic_directory(directory, overwrite=overwrite, inputs=self.inputs) as folder:
            (folder / "report.html").write_text(render_report(self.report), encoding="utf-8")
            (folder / "plane.png").write_bytes(png(plane_figure(self.report["plane"])))
            write_json(folder / REPORT, sealed(self.report, folder))


def loss_plane(
    models: Sequence[str | Path | Checkpoint], plan: PlanePlan, *, progress: Progress | None = None
) -> LossPlane:
    """The loss on the plane through three models, the second and the third aligned to the first, as `plan` asks.

    Raises IncompatibleModels before any weight is read; BadInput for other than three models, for no text, and for
    models that span no plane.
    """
    if len(models) != 3:
        raise BadInput(f"a plane goes through three models; got {len(models)}")
    if not plan.data:
        raise BadInput("a loss needs text: add --data (for instance --data stdlib:docs)")
    if plan.resolution < 2:
        raise BadInput(f"--resolution is at least 2; got {plan.resolution}")
    progress, began = progress or Progress(), time.monotonic()
    places = tuple(model_places(models) + text_places(plan.data))
    device = pick_device(plan.device)
    progress.stage("checking")
    inputs = open_inputs(models, families=FAMILIES, narrow=True, longest=plan.context)
    progress.findings(inputs.findings)
    places += tuple(model_places(inputs.whole))
    first, *others = inputs.members
    tokenizers = (end for end in inputs.whole if end.has_tokenizer)
    smallest = min(tokenizers, key=lambda end: int(end.config.vocab_size), default=inputs.whole[0])
    progress.stage("reading text")
    source = text_of_model(plan.data, smallest.tokenizer(), first.config, context=inputs.context, seed=plan.seed)
    text = source.blocks(fit_tokens=None, select_tokens=0, report_tokens=plan.tokens)
    progress.stage(f"aligning ({plan.align})", len(others))
    aligned = []
    for other in others:
        aligned.append(align_states(first.state, other.state, first.config, plan.align, seed=plan.seed))
        progress.advance()
    names = [f"{letter}: {end.name}" for letter, end in zip("ABC", inputs.members, strict=True)]
    states = dict(zip(names, map(dict, [aligned[0].a, *(one.b for one in aligned)]), strict=True))
    blocks = {part.label: part.report for part in text}
    plane = _measured(states, aligned[0].config, blocks, device, progress, resolution=plan.resolution)
    report = {
        "schema": 1,
        "command": "plane",
        "task": first.schema.task,
        "endpoints": [{"ref": end.name, "revision": end.revision} for end in inputs.members],
        "alignment": {"method": plan.align},
        "findings": [asdict(finding) for finding in inputs.findings],
        "plane": {**plane.to_dict(), "path": []},
        "data": [{"label": part.label, "report_tokens": part.report.numel()} for part in text],
        "settings": {"seed": plan.seed, "resolution": plan.resolution},
        "seconds": round(time.monotonic() - began, 3),
        "versions": versions(),
    }
    return LossPlane(plane, report, places)


def _measured(
    states: Mapping[str, Mapping[str, Tensor]],
    config: PretrainedConfig,
    blocks: Mapping[str, Tensor],
    device: str,
    progress: Progress,
    *,
    resolution: int = RESOLUTION,
) -> Plane:
    progress.stage("measuring the plane", resolution**2 * sum(map(len, blocks.values())))
    meter = LossMeter(config, blocks, device=device, on_blocks=progress.advance)
    return measure_plane(states, meter, resolution=resolution)


def _some(report: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {label: rows[:BLOCKS] for label, rows in report.items()}


def path_plane(
    path: WeightPath, config: PretrainedConfig, report: Mapping[str, Tensor], device: str, progress: Progress
) -> dict[str, Any]:
    """The plane through the endpoints of a bent path and its middle bend, on a part of the report text, JSON-ready.

    A path of one bend lies in it, and is drawn.
    """
    middle = len(path.bends) // 2
    name = "bend" if len(path.bends) == 1 else f"bend {middle + 1}"
    states = {"A": path.a, "B": path.b, name: path.bends[middle]}
    plane = _measured(states, config, _some(report), device, progress)
    points = [plane.models[model] for model in ("A", name, "B")]
    ts = grid(CURVE_POINTS) if len(path.bends) == 1 else []
    return {**plane.to_dict(), "path": [list(_place(coefficients(path.kind, t, 3), points)) for t in ts]}


def _place(weights: Sequence[float], points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    x, y = (sum(w * point[i] for w, point in zip(weights, points, strict=True)) for i in (0, 1))
    return x, y


def simplex_plane(
    states: Sequence[Mapping[str, Tensor]],
    shares: Sequence[float] | None,
    config: PretrainedConfig,
    report: Mapping[str, Tensor],
    device: str,
    progress: Progress,
) -> dict[str, Any]:
    """The plane through three models, on which all their averages lie, on a part of the report text, JSON-ready.

    Marked are their plain average and, where the merge is one with `shares`, the merge. The path is the triangle.
    """
    plane = _measured(dict(zip("ABC", states, strict=True)), config, _some(report), device, progress)
    corners = list(plane.models.values())
    even = (1 / 3,) * 3
    marked = {"average": _place(even, corners)}
    if shares is not None and max(abs(s - e) for s, e in zip(shares, even, strict=True)) > 1e-3:
        marked["merge"] = _place(shares, corners)
    drawn = replace(plane, models={**plane.models, **marked})
    return {**drawn.to_dict(), "path": [list(corner) for corner in (*corners, corners[0])]}
