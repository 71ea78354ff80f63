"""The spectrum of a state: its canonical form (align) and that form's singular values (eval)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..align.canonical import canonical
from ..align.families import family
from ..checkpoint.errors import IncompatibleModels
from ..checkpoint.finite import finite_algebra
from ..checkpoint.loading import load
from ..checkpoint.optimizer_evidence import file_evidence
from ..checkpoint.reference import parse_reference
from ..checkpoint.source import Source
from ..eval.fingerprint import judge
from ..eval.spectrum import Spectrum, mean_distance, singular_values, stable_rank
from .progress import Progress
from .provenance import fingerprint_of, optimizer_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def spectrum(state: Mapping[str, Tensor], config: PretrainedConfig) -> Spectrum:
    """Singular values of every matrix of a state in canonical form, Q, K and V apart: name → float64, descending.

    Raises UnsupportedFamily.
    """
    table = family(config)
    form = canonical(state, table)
    with finite_algebra("measuring the spectrum"):
        return {name: singular_values(table.untied().piece(form, name)) for name in table.matrices}


def compare_models(references: Sequence[str | Path], progress: Progress) -> dict[str, Any]:
    """Spectra of models, the optimizers that left them, and the spectral distances of all pairs, as JSON-ready data."""
    checkpoints = [load(reference) for reference in references]
    progress.stage("measuring spectra", len(checkpoints))
    found, prints = [], []
    for checkpoint in checkpoints:
        found.append(spectrum(checkpoint.state, checkpoint.config))
        prints.append(fingerprint_of(checkpoint.state, checkpoint.config, found[-1]))
        progress.advance()
    models = []
    for checkpoint, values, numbers in zip(checkpoints, found, prints, strict=True):
        said = file_evidence(Source(parse_reference(checkpoint.reference)))
        ranks = {name: stable_rank(sigma) for name, sigma in values.items()}
        kinds = dict.fromkeys(name.rpartition(".")[2] for name in ranks)
        means = {kind: mean([rank for name, rank in ranks.items() if name.endswith(f".{kind}")]) for kind in kinds}
        models.append(
            {
                "ref": checkpoint.name,
                "revision": checkpoint.revision,
                "stable_rank": means,
                "matrices": ranks,
                "optimizer": asdict(optimizer_of(said, numbers)),
                "fingerprint": {**asdict(numbers), "judged": asdict(judge(numbers))},
            }
        )
    distances = [
        {
            "a": checkpoints[i].name,
            "b": checkpoints[j].name,
            "distance": _distance(found[i], found[j], checkpoints[j].name),
        }
        for i in range(len(found))
        for j in range(i + 1, len(found))
    ]
    return {"schema": 1, "command": "spectrum", "models": models, "distances": distances}


def _distance(a: Spectrum, b: Spectrum, name: str) -> float:
    if a.keys() != b.keys():
        raise IncompatibleModels(
            f"'{name}' has other matrices than the first model: only models of one depth can be compared"
        )
    return mean_distance(a, b)
