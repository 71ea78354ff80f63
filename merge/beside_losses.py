"""What a report says beside the losses: other text, text that models know by heart, samples, the plane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..checkpoint.card import letter
from ..checkpoint.config import build_config
from ..checkpoint.errors import BadInput
from ..checkpoint.gguf_source import GgufSource
from ..eval.memorization import own_words
from ..eval.quantization import quantization_cost
from ..eval.samples import Sample, samples
from .along_path import closed_line
from .choosing import Choice
from .job import Job
from .measured import Measured
from .path import WeightPath
from .plane import path_plane, simplex_plane
from .probe import Probe, probed
from .reading import MergeText, writer_of
from .vocabulary import Whole

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def probe(job: Job, text: MergeText, choice: Choice, measured: Measured) -> tuple[dict[str, Any], ...]:
    """What the path is like on other text, and whether what was fitted holds there (`isthmus.merge.probe`)."""
    if measured.profiles is None or choice.path is None or choice.t is None:
        return ()
    writer, where = writer_of(job.inputs, job.plan, job.device, job.progress), (job.device, job.progress)
    blocks = Probe(job.inputs, job.plan.data, writer).blocks("report")
    if not blocks:
        return ()
    path, closed = (choice.path, choice.universe.config), None
    if choice.closed is not None:
        line = WeightPath.line(choice.universe.states), choice.universe.config
        closed = line if choice.closed is choice.universe.alignment else closed_line(job.inputs, choice.closed)
    on_probe = probed(path, closed, blocks, choice.t, *where)
    own = probed(path, closed, text.report, choice.t, *where) if closed else on_probe
    return on_probe.rows(own)


def memorized(job: Job, text: MergeText) -> tuple[dict[str, Any], ...]:
    """The texts that a model knows by heart, by the place of the model."""
    if not job.plan.data or not job.inputs.first.schema.writes:
        return ()
    models, found = job.inputs.whole[job.base :], []
    job.progress.stage("looking for text that the models know by heart", len(models))
    for place, model in enumerate(models):
        own = own_words(model.state, model.config, text.report, seed=job.plan.seed, device=job.device)
        for label in own.by_heart():
            gap, alike = own.gap.label_mean(label), own.alike.label_mean(label)
            found.append({"model": place, "label": label, "gap": gap, "alike": alike})
        job.progress.advance()
    return tuple(found)


def quantized(job: Job, text: MergeText) -> tuple[dict[str, Any], ...]:
    """What quantization cost the models that were dequantized, by the place of the model."""
    found = []
    for place, model in enumerate(job.inputs.whole[job.base :]):
        inner = model.source.parts[0] if model.source is not None else None
        if isinstance(model.source, GgufSource) and isinstance(inner, GgufSource) and inner.quantized:
            job.progress.stage("estimating what quantization cost")
            cost = quantization_cost(model.state, model.config, text.report, seed=job.plan.seed, device=job.device)
            found.append({"model": place, "cost": cost.mean, "stderr": cost.stderr})
    return tuple(found)


def samples_of(job: Job, whole: Whole, text: MergeText) -> tuple[Sample, ...]:
    """What the models and the merge, all as their users run them, make of the beginning of every report text."""
    owner = job.inputs.tokenizer_owner
    if not text or job.plan.max_memory is not None or not owner.has_tokenizer:
        return ()
    if not job.inputs.first.schema.writes:
        return ()
    job.progress.stage("writing samples")
    members = job.inputs.whole[job.base :][:3]
    models: dict[str, tuple[Mapping[str, Tensor], PretrainedConfig]] = {
        letter(place): (member.state, member.config) for place, member in enumerate(members)
    }
    models["merge"] = (whole.state, build_config(whole.facts, "merge"))
    return samples(models, owner.tokenizer(), text.report, seed=job.plan.seed, device=job.device)


def plane_of(job: Job, choice: Choice, text: MergeText) -> dict[str, Any] | None:
    """The loss on the plane of a curve, or of three models; None where there is none to draw."""
    if not text or job.plan.max_memory is not None:
        return None
    if job.is_composed:
        return None
    config, where = choice.universe.config, (text.report, job.device, job.progress)
    try:
        if choice.path is not None:
            return path_plane(choice.path, config, *where) if choice.path.bends else None
        if choice.recipe is None or len(job.ends) != 3:
            return None
        on_plane = choice.recipe.operator.name == "linear" and choice.star is None
        shares = choice.recipe.plain_weights() if on_plane else None
        return simplex_plane(choice.universe.states[job.base :], shares, config, *where)
    except BadInput:  # two of them are the same, or all lie on one line
        return None
