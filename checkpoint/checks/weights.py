"""The tensors of a model against its configuration, and of two models against each other, without reading weights.

Only the distance between two models that are both on this disk is measured, on a sample of their weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from isthmus.checkpoint.checks.finding import Finding
from isthmus.checkpoint.checks.kind import headless_findings, kind_findings, tensor_findings
from isthmus.checkpoint.config import schema_of
from isthmus.checkpoint.headers import TensorInfo
from isthmus.checkpoint.loading import match_names, stored_tensors
from isthmus.checkpoint.model import Families
from isthmus.checkpoint.source import WEIGHT_FILES, Source

SAMPLED_MATRICES = 8
SAMPLED_ROWS = 256
RELATED = 0.5


@dataclass(frozen=True)
class Weights:
    """What the headers of a model say: tensors by the model's names with the file of each; None where only a pickle
    would tell."""

    tensors: Mapping[str, tuple[str, str, TensorInfo]] | None

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes of its tensors, by safetensors' names."""
        return tuple(sorted({info.dtype for _, _, info in (self.tensors or {}).values()}))


def own_findings(source: Source, facts: Mapping[str, Any], families: Families | None) -> tuple[list[Finding], Weights]:
    """What is wrong with one model alone, and its tensors."""
    findings = kind_findings(source, facts, families)
    if findings:
        return findings, Weights(None)
    kind = facts["model_type"]
    repair = "repair or replace this checkpoint"
    if families is not None and kind not in families:
        repair = f"models of type '{kind}' are only read when their files use transformers' own names"
        what = f"'{source.name}' is of type '{kind}', whose symmetries are not known"
        advice = f"only --align none is possible; alignment is supported for: {', '.join(sorted(families))}"
        findings.append(Finding("degrades", what, advice, "config.json"))
    stored = stored_tensors(source)
    names = source.weight_files()
    if any(not name.endswith(".safetensors") for name in names):
        advice = "they are read without executing them; safetensors would be safer, and read faster"
        if stored is None:
            advice = "its tensors can only be checked after the download; safetensors would be checked before"
        findings.append(Finding("notes", f"'{source.name}' has only pickled weights", advice, names[0]))
    schema = schema_of(facts, source.name, families)
    if stored is None:
        return findings, Weights(None)
    where = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    obstacles = tensor_findings(source.name, stored, schema, where)
    if obstacles:
        return findings + obstacles, Weights(None)
    found, problems = match_names(stored, schema, source.name)
    missing = [name for name in schema.shapes if name not in found]
    if len(problems) == len(missing):
        obstacles = headless_findings(source.name, facts, missing, schema)
        findings, problems = findings + obstacles, [] if missing and obstacles else problems
    findings += [Finding("blocks", problem, repair, where) for problem in problems]
    return findings, Weights({name: (stored[there][0], there, stored[there][1]) for name, there in found.items()})


def pair_findings(
    a: Source, weights_a: Weights, b: Source, weights_b: Weights, *, alignable: bool = True
) -> list[Finding]:
    """Other dtypes; and how far the weights are apart, where both are on this disk, and what that asks for.

    `alignable` is whether models of this type can be aligned.
    """
    findings = []
    if weights_a.dtypes and weights_b.dtypes and weights_a.dtypes != weights_b.dtypes:
        mine, other = ("/".join(x.dtypes) for x in (weights_a, weights_b))
        what = f"'{a.name}' is stored in {mine}, '{b.name}' in {other}"
        findings.append(
            Finding("notes", what, "the merge is saved in float32, or in what --dtype says", WEIGHT_FILES[0])
        )
    apart = distance(a, weights_a, b, weights_b)
    if apart is None:
        return findings
    share = f"{apart:.2f} of the distance between independent models"
    if apart == 0:
        what, advice = f"'{a.name}' and '{b.name}' hold the same weights", "there is nothing to merge"
    elif apart < RELATED:
        what = f"'{a.name}' and '{b.name}' are relatives: {share}"
        advice = "they usually need no alignment" + "; --align auto tries both" * alignable
    else:
        what = f"'{a.name}' and '{b.name}' were trained independently: {share}"
        advice = "without alignment their average would be destroyed"
        advice += "; --align auto aligns them" if alignable else ", and isthmus cannot align models of this type yet"
    return [*findings, Finding("notes", what, advice, WEIGHT_FILES[0])]


def distance(a: Source, weights_a: Weights, b: Source, weights_b: Weights) -> float | None:
    """‖A − B‖ / √(‖A‖² + ‖B‖²) on a sample: 0 for equal weights, 1 for orthogonal ones, as of independent models.

    Over the first `SAMPLED_ROWS` rows of `SAMPLED_MATRICES` matrices that lie evenly spread among those of one shape in
    both, float64. None where a model is not on this disk, is pickled, or has not such numbers.
    """
    if weights_a.tensors is None or weights_b.tensors is None:
        return None
    names = [
        name
        for name, (_, _, info) in weights_a.tensors.items()
        if len(info.shape) == 2 and name in weights_b.tensors and weights_b.tensors[name][2].shape == info.shape
    ]
    step = max(1, len(names) // SAMPLED_MATRICES)
    sides = ((a, weights_a.tensors), (b, weights_b.tensors))
    files = {(source, tensors[name][0]) for source, tensors in sides for name in names[::step]}
    if not names or not all(source.is_local(file) and file.endswith(".safetensors") for source, file in files):
        return None
    difference = total = 0.0
    try:
        for name in names[::step]:
            mine, other = (_rows(source, tensors[name]) for source, tensors in sides)
            difference += (mine - other).square().sum().item()
            total += (mine.square().sum() + other.square().sum()).item()
    except (SafetensorError, OSError):
        return None  # reading the model will say it
    found = math.sqrt(difference / total) if total > 0 else math.nan
    return found if math.isfinite(found) else None


def _rows(source: Source, tensor: Sequence[Any]) -> torch.Tensor:
    file, name, _ = tensor
    with safe_open(source.path(file), framework="pt") as opened:
        rows: torch.Tensor = opened.get_slice(name)[:SAMPLED_ROWS].double()
    return rows
