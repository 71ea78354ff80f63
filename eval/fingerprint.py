"""The optimizer that trained a model: as its files or the user say, or by the spectral fingerprint of its weights.

Muon orthogonalises its updates and leaves spectra as flat as those of noise; AdamW's have a long tail (Zhang et al.
2026, arXiv 2605.09991). Lion's updates are signs, so its weights have lighter tails than a Gaussian; SGD moves few of
them far. The ranges were measured on models that were trained on purpose (`isthmus lab fingerprint`), with a margin; a
model outside of all of them is unknown, and so is one whose embedding has hardly been trained.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import TYPE_CHECKING

from torch import Tensor

from ..align.families import family
from ..checkpoint.optimizer_evidence import Evidence, canonical_name, conclude
from .spectrum import Spectrum, singular_values

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from ..align.symmetry import Family

WHYS = {
    "adamw": "its spectra have the long tail that AdamW leaves",
    "muon": "its spectra are as flat as Muon leaves them",
    "lion": "its spectra have a long tail and its weights none, as Lion leaves them",
}


@dataclass(frozen=True)
class Fingerprint:
    """Numbers that distinguish optimizers.

    `peakedness`: mean over the hidden matrices of log σ₁ / σ_median, in nats, in canonical form. `attention`: how much
    larger that is for queries and keys than for the attention's outputs. `kurtosis`: mean over the hidden matrices of
    E[(w − μ)⁴] / E[(w − μ)²]², 3 for a Gaussian, in the basis that they were trained in. `embedding`: log σ₁ / σ_median
    of the token embedding, which grows as long as a model is trained, whatever the optimizer. `calibrated`: whether the
    ranges were measured on models of this architecture.
    """

    peakedness: float
    attention: float
    kurtosis: float
    embedding: float
    calibrated: bool = True

    @property
    def share(self) -> float:
        """`peakedness` / `embedding`: the spectra of the hidden matrices relative to that of the embedding."""
        return self.peakedness / self.embedding if self.embedding else 0.0


# The lowest and the highest number that an optimizer leaves, calibrated on the models of
# `isthmus.lab.fingerprint_study`: what lies between two kinds of them is in no range.
RANGES: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "muon": {"share": (0.15, 0.385), "kurtosis": (2.95, 4.0), "embedding": (2.2, 4.0)},
    "adamw": {
        "peakedness": (1.6, 3.0),
        "share": (0.5, 1.0),
        "attention": (0.15, 2.0),
        "kurtosis": (2.96, 3.8),
        "embedding": (2.3, 4.0),
    },
    "lion": {
        "peakedness": (1.6, 3.5),
        "attention": (-1.5, -0.1),
        "kurtosis": (2.2, 2.85),
        "embedding": (2.3, 4.0),
    },
}


def fingerprint(
    spectrum: Spectrum,
    hidden: Iterable[Tensor],
    embedding: Tensor,
    *,
    queries: Collection[str] = (),
    outputs: Collection[str] = (),
) -> Fingerprint:
    """The fingerprint of a model.

    `spectrum` is that of its hidden matrices in canonical form; `queries` are the names of those that make queries and
    keys, `outputs` of those that take the attention's outputs. `hidden` are the same matrices as they are stored,
    `embedding` are the singular values of the token embedding, descending.
    """
    peaks = {name: peak(values) for name, values in spectrum.items() if values.numel()}
    attention = _mean([peaks[name] for name in peaks if name in queries]) - _mean(
        [peaks[name] for name in peaks if name in outputs]
    )
    tails = [kurtosis(matrix) for matrix in hidden if (matrix != matrix.flatten()[0]).any()]
    return Fingerprint(
        _mean(list(peaks.values())), attention, _mean(tails), peak(embedding) if embedding.numel() else 0.0
    )


def _mean(values: Sequence[float]) -> float:
    """The mean; 0 of an empty list, as a model has whose matrices are all zero."""
    return mean(values) if values else 0.0


def peak(values: Tensor) -> float:
    """log σ₁ / σ_median of descending singular values, in nats: how far the largest stand out."""
    return (values[0] / values[values.numel() // 2]).log().item()


def kurtosis(matrix: Tensor) -> float:
    """E[(w − μ)⁴] / E[(w − μ)²]² over the entries, float64."""
    centred = matrix.double() - matrix.double().mean()
    return (centred.pow(4).mean() / centred.square().mean().square()).item()


def judge(fingerprint: Fingerprint) -> Evidence:
    """The only optimizer whose ranges hold all numbers of a fingerprint; unknown where there is none, or several, and
    where they were not calibrated.
    """
    fitting = [
        name
        for name, ranges in RANGES.items()
        if all(low <= getattr(fingerprint, number) <= high for number, (low, high) in ranges.items())
    ]
    measured = f"peakedness {fingerprint.peakedness:.2f}, kurtosis {fingerprint.kurtosis:.2f}"
    if not fingerprint.calibrated:
        return Evidence(None, "unknown", f"no optimizer is known by its weights in models of this type ({measured})")
    if len(fitting) == 1:
        return Evidence(fitting[0], "likely", f"{WHYS[fitting[0]]} ({measured})")
    return Evidence(None, "unknown", f"its weights are like those of no optimizer that is known ({measured})")


def fingerprint_of(state: Mapping[str, Tensor], config: PretrainedConfig, spectrum: Spectrum) -> Fingerprint:
    """The fingerprint of a state as it is stored; `spectrum` is its spectrum in canonical form.

    Raises UnsupportedFamily.
    """
    table = family(config)
    hidden = (table.piece(state, name) for name in table.matrices)
    queries, outputs = _attention_maps(table)
    embedding = singular_values(table.piece(state, table.embedding))
    numbers = fingerprint(spectrum, hidden, embedding, queries=queries, outputs=outputs)
    return replace(numbers, calibrated=table.calibrated)


def _attention_maps(table: Family) -> tuple[set[str], set[str]]:
    """The matrices that make queries and keys, and those that take the attention's outputs to the residual stream.

    All have an axis of heads with a space inside them. Outputs are writers, and values share their space.
    """
    inside = {
        name: {axis.spaces[-1] for axis in table.pieces[name].axes if len(axis.spaces) > 1} for name in table.matrices
    }
    outputs = {name for name, _ in table.writers if inside.get(name)}
    values = set().union(*(inside[name] for name in outputs))
    return {name for name, spaces in inside.items() if spaces - values}, outputs


def optimizer_of(documented: Sequence[Evidence], measured: Fingerprint | None, stated: str | None = None) -> Evidence:
    """The optimizer of a model: the one that the user `stated`, else the one that its files and its weights agree on.

    Weights count only where the files do not say that the model is a merge.
    """
    if stated is not None:
        return Evidence(canonical_name(stated) or stated.lower(), "stated", "the user says so")
    merged = any(evidence.confidence == "unknown" for evidence in documented)
    return conclude(documented, judge(measured) if measured is not None and not merged else None)
