"""Spectra of states: measured in canonical form, restored after averaging, and compared between models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..align.families import family
from ..align.streamed import streamed_canonical
from ..align.symmetry import Family
from ..checkpoint.errors import IncompatibleModels
from ..checkpoint.finite import finite_algebra
from ..checkpoint.loading import load
from ..checkpoint.opening import open_source
from ..checkpoint.optimizer_evidence import file_evidence
from ..checkpoint.rows import ComputedState
from ..eval.fingerprint import fingerprint_of, judge, optimizer_of
from ..eval.processes import in_turn
from ..eval.progress import Progress
from ..eval.spectrum import NULL, Spectrum, mean_distance, singular_values, stable_rank

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def spectrum(state: Mapping[str, Tensor], config: PretrainedConfig) -> Spectrum:
    """Singular values of every matrix of a state in canonical form, Q, K and V apart: name → float64, descending.

    The matrices are made one after the other, so that of a state on disk a few are in memory at any time; of several
    processes, each measures a share of them.

    Raises UnsupportedFamily.
    """
    table = family(config)
    pieces, untied = streamed_canonical(state, table), table.untied()

    def measured(piece: str) -> Spectrum:
        return {name: singular_values(matrix) for name, matrix in untied.matrices_of(piece, pieces[piece])}

    with finite_algebra("measuring the spectrum"):
        parts = in_turn(untied.matrices, measured)
    return {name: values for part in parts for name, values in part.items()}


def restored_spectrum(
    state: Mapping[str, Tensor], ends: Sequence[Mapping[str, Tensor]], shares: Sequence[float], table: Family
) -> ComputedState:
    """The state with singular values σ_i = Π σ_i(end)^share in every matrix, and its own singular vectors.

    That is the average of the ends' log-spectra with `shares`, which sum to 1. The `ends` and `state` are in the same
    form, that of `table`; singular values that are zero to rounding in any of them stay as they are. In float64; the
    result has the dtype of `state`. Every tensor is made when it is looked up.
    """
    parts, matrices = table.parts(), set(table.matrices)

    def restored(parameter: str) -> Tensor:
        whole = [one[parameter] for one in (state, *ends)]
        pieces = []
        for name in parts[parameter]:
            piece, *others = (table.pieces[name].of(tensor) for tensor in whole)
            pieces.append(piece.clone())
            if name in matrices:
                beside = zip(*(table.matrices_of(name, other) for other in others), strict=True)
                for (_, matrix), its_ends in zip(table.matrices_of(name, pieces[-1]), beside, strict=True):
                    _restore(matrix, [end for _, end in its_ends], shares)
        return table.fused(pieces, parts[parameter])

    return ComputedState(parts, restored)


def _restore(matrix: Tensor, ends: Sequence[Tensor], shares: Sequence[float]) -> None:
    """Give a matrix the averaged singular values of others."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    spectra = torch.stack([torch.linalg.svdvals(end.double()) for end in ends])
    real = torch.stack([x > NULL * x[0] for x in (values, *spectra)]).all(0)
    logs = spectra.clamp_min(torch.finfo(torch.float64).tiny).log()
    values = torch.where(real, (logs.new_tensor(shares) @ logs).exp(), values)
    matrix.copy_((left * values) @ right)


def compare_models(references: Sequence[str | Path], progress: Progress) -> dict[str, Any]:
    """Spectra of models, the optimizers that left them, and the spectral distances of all pairs, as JSON-ready data."""
    checkpoints = [load(reference) for reference in references]
    progress.stage("measuring spectra", len(checkpoints))
    spectra, models = [], []
    for checkpoint in checkpoints:
        spectra.append(spectrum(checkpoint.state, checkpoint.config))
        numbers = fingerprint_of(checkpoint.state, checkpoint.config, spectra[-1])
        source = checkpoint.source or open_source(checkpoint.place)
        evidence = file_evidence(source.parts[0])
        ranks = {name: stable_rank(sigma) for name, sigma in spectra[-1].items()}
        kinds = dict.fromkeys(name.rpartition(".")[2] for name in ranks)
        means = {kind: mean([rank for name, rank in ranks.items() if name.endswith(f".{kind}")]) for kind in kinds}
        models.append(
            {
                "ref": checkpoint.name,
                "revision": checkpoint.revision,
                "stable_rank": means,
                "matrices": ranks,
                "optimizer": asdict(optimizer_of(evidence, numbers)),
                "fingerprint": {**asdict(numbers), "judged": asdict(judge(numbers))},
            }
        )
        progress.advance()
    named = zip([checkpoint.name for checkpoint in checkpoints], spectra, strict=True)
    distances = [
        {"a": a, "b": b, "distance": _distance(left, right, b)} for (a, left), (b, right) in combinations(named, 2)
    ]
    return {"schema": 1, "command": "spectrum", "models": models, "distances": distances}


def _distance(a: Spectrum, b: Spectrum, name: str) -> float:
    if a.keys() != b.keys():
        raise IncompatibleModels(
            f"'{name}' has other matrices than the first model: only models of one depth can be compared"
        )
    return mean_distance(a, b)
