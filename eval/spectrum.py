"""The spectrum: singular values of every matrix, how far two models' lie apart, and whether a merge keeps them.

Spectra are measured in canonical form (`isthmus.align.canonical`), in which permutations and rotations do not change
them, so that they depend on the optimizer and not on the gauge. Where norms centre, the canonical form projects the
all-ones direction out; singular values that are zero to rounding for that reason are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Spectrum = dict[str, Tensor]
Verdict = Literal["preserved", "transition", "contracted", "inflated"]

APART = 0.4  # of the highest excess, for endpoints of two kinds: between spectra that are apart, a contraction hides
NULL = 1e-5
ROWS = 4096  # of a matrix that are in float64 at a time
POSITION_NOISE = 0.03


def singular_values(matrix: Tensor) -> Tensor:
    """Singular values, descending, float64, those that are zero to rounding left out.

    From the eigenvalues of the smaller Gram matrix, in float64, at a third of the time of an SVD. The relative error
    of σ is about 1e-16 (σ₁/σ)², so at most 1e-6 for those that stay, σ > 1e-5 σ₁. Only some rows at a time are in
    float64, so that a large embedding needs no second copy.
    """
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    gram = torch.zeros(tall.shape[1], tall.shape[1], dtype=torch.float64, device=tall.device)
    for rows in tall.split(ROWS):
        exact = rows.double()
        gram += exact.T @ exact
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().flip(0)
    return torch.masked_select(values, values > NULL * values[0])


def stable_rank(values: Tensor) -> float:
    """‖W‖_F² / σ₁², between 1 and the rank; 0 of a zero matrix."""
    return 0.0 if not values.numel() else (values.square().sum() / values[0].square()).item()


def spectral_distance(a: Tensor, b: Tensor) -> float:
    """Mean over i of |log σ_i − log σ'_i|, in nats: the 1-Wasserstein distance of the log-spectra.

    Over the smaller of the two ranks; 0 where one of the matrices is zero.
    """
    rank = min(a.numel(), b.numel())
    if rank == 0:
        return 0.0
    return (a[:rank].log() - b[:rank].log()).abs().mean().item()


@dataclass(frozen=True)
class Thresholds:
    """The highest excess that is preserved between endpoints of one kind, and how far apart these may be, in nats."""

    max_excess: float = 0.1
    same_kind: float = 0.2

    def highest_excess(self, distance: float) -> float:
        """The highest excess that is allowed between endpoints of a distance: less when they are of two kinds.

        Matrices that are not aligned cancel in an average. Where the endpoints' spectra are alike, that of the average
        is below both. Where they are apart, it falls from the higher towards the lower one, and little of that is an
        excess.
        """
        return self.max_excess if distance < self.same_kind else APART * self.max_excess


USUAL = Thresholds()


@dataclass(frozen=True)
class MatrixSpectrum:
    """One matrix: stable ranks at A, at M, at B and at further endpoints, distance of the endpoints in nats, excess,
    position (None unless there are two endpoints), mean log-ratio."""

    name: str
    stable_rank: tuple[float, ...]
    distance: float
    excess: float
    position: float | None
    log_ratio: float


@dataclass(frozen=True)
class SpectrumReport:
    """The spectrum of M among two endpoints or more: a verdict, and the means over all matrices that lead to it.

    `excess` is the mean distance of log σ_i(M) from the interval of the endpoints' log σ_i, which for two of them is
    [d(A,M) + d(M,B) − d(A,B)] / 2 ≥ 0, and `limit` the highest that is allowed; `position` = d(A,M) / (d(A,M) + d(M,B))
    for two, else None; `distance` = d(A,B), the largest of all pairs; `log_ratio` the mean of log σ(M) − the endpoints'
    mean log σ. `zero` are the matrices that are zero in one of the models: without a log σ, they are in no mean.
    """

    verdict: Verdict
    excess: float
    position: float | None
    distance: float
    log_ratio: float
    limit: float
    matrices: tuple[MatrixSpectrum, ...]
    zero: tuple[str, ...] = ()


def among(ends: Sequence[Spectrum], m: Spectrum, thresholds: Thresholds = USUAL) -> SpectrumReport:
    """The verdict on M among any number of endpoints.

    When the endpoints are closer than `same_kind`, an excess of at most `max_excess` is ``preserved``; when they are
    further apart, one of at most `APART` of that a ``transition``. Above it, ``contracted`` or ``inflated``.
    """
    rows, zero = [], []
    for name, values in m.items():
        rank = min(x[name].numel() for x in (*ends, m))
        first, *others = (stable_rank(x[name]) for x in ends)
        ranks = (first, stable_rank(values), *others)
        if rank == 0:
            zero.append(MatrixSpectrum(name, ranks, 0.0, 0.0, None, 0.0))
            continue
        logs = torch.stack([end[name][:rank].log() for end in ends])
        own = values[:rank].log()
        outside = (logs.amin(0) - own).clamp_min(0) + (own - logs.amax(0)).clamp_min(0)
        apart = max(spectral_distance(x[name], y[name]) for x in ends for y in ends)
        position = None
        if len(ends) == 2:
            to_a, to_b = (spectral_distance(end[name], values) for end in ends)
            position = to_a / (to_a + to_b) if to_a + to_b > 0 else 0.5
        ratio = (own - logs.mean(0)).mean().item()
        rows.append(MatrixSpectrum(name, ranks, apart, outside.mean().item(), position, ratio))
    excess, distance, ratio = (
        _mean([getattr(row, key) for row in rows]) for key in ("excess", "distance", "log_ratio")
    )
    positions = [row.position for row in rows if row.position is not None]
    verdict = judged(excess, distance, ratio, thresholds)
    position, limit = _mean(positions) if positions else None, thresholds.highest_excess(distance)
    names = tuple(row.name for row in zero)
    return SpectrumReport(verdict, excess, position, distance, ratio, limit, (*rows, *zero), names)


def judged(excess: float, distance: float, log_ratio: float, thresholds: Thresholds = USUAL) -> Verdict:
    """The verdict on the numbers of a `SpectrumReport`, in nats."""
    if excess <= thresholds.highest_excess(distance):
        return "preserved" if distance < thresholds.same_kind else "transition"
    return "contracted" if log_ratio < 0 else "inflated"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


@dataclass(frozen=True)
class PathSpectrum:
    """Spectra along a path, point by point: (t, excess, position), means over matrices as in `SpectrumReport`.

    ``preserved``: no excess above the limit, endpoints of one kind. ``transition``: no excess above it, endpoints
    further apart, and the position grows along the path. ``broken``: at `broken_at`, the excess is above the limit or
    the position has fallen back.
    """

    verdict: Literal["preserved", "transition", "broken"]
    points: tuple[tuple[float, float, float], ...]
    broken_at: tuple[float, ...]


def along_path(spectra: Mapping[float, Spectrum], thresholds: Thresholds = USUAL) -> PathSpectrum:
    """The verdict on a whole path from its spectra at t in [0, 1], both ends among them.

    A position may fall back by `POSITION_NOISE` behind the furthest before it. Between endpoints closer than
    `same_kind` positions are noise and do not count.
    """
    ts = sorted(spectra)
    a, b = spectra[ts[0]], spectra[ts[-1]]
    comparisons = [among((a, b), spectra[t]) for t in ts]
    points = [(t, point.excess, point.position or 0.0) for t, point in zip(ts, comparisons, strict=True)]
    return judged_path(points, mean_distance(a, b), thresholds)


def judged_path(
    points: Sequence[tuple[float, float, float]], distance: float, thresholds: Thresholds = USUAL
) -> PathSpectrum:
    """The verdict of `along_path` on (t, excess, position) in the order of t, between endpoints of a distance."""
    same, limit = distance < thresholds.same_kind, thresholds.highest_excess(distance)
    broken, furthest = [], 0.0
    for t, excess, position in points:
        if excess > limit or (not same and position < furthest - POSITION_NOISE):
            broken.append(t)
        furthest = max(furthest, position)
    return PathSpectrum("broken" if broken else "preserved" if same else "transition", tuple(points), tuple(broken))


def mean_distance(a: Spectrum, b: Spectrum) -> float:
    """The spectral distance of two models: the mean over their matrices that are not zero, in nats."""
    return _mean([spectral_distance(a[name], b[name]) for name in a if a[name].numel() and b[name].numel()])


def log_histogram(values: Tensor, edges: Tensor) -> list[float]:
    """Shares of the singular values whose log10 falls between consecutive `edges`."""
    counts = torch.histogram(values.log10().float(), edges.float()).hist
    return [count / max(1, values.numel()) for count in counts.tolist()]
