"""An exact lower bound on the barrier between two networks where a neuron has to change its activation pattern.

In two dimensions, the lines x_i · w = 0 cut the plane of a neuron's inner weights w into cones, one for each activation
pattern, each between two neighbouring rays perpendicular to inputs. Let the first neuron of A lie in a cone C in which
no neuron of B lies. However B's neurons are ordered, the first neuron leaves C along any path from A to B, through one
of the two rays that bound it, or through 0 between them. So the loss along the path is somewhere at least L*, the
lowest loss of all networks whose first neuron is on a ray of C: no path can do better.

L* can be found exactly. In a cone between rays e and e' the features max(0, X w) are linear: w = α e + β e', α, β ≥ 0,
gives α φ(e) + β φ(e') with φ(e) = max(0, X e), and the size of the outer weight goes into α and β. So for every choice
of signs, of a ray for the first neuron and of a cone for the other, the lowest loss is that of a convex quadratic
programme, non-negative least squares:

    min |Σ_k c_k f_k − y|²  over c ≥ 0, f_k the signed features of the choice.

With r = y − fit at its solution, f_k · r ≤ 0 for all k and fit · r = 0 prove it: for any other fit g of the choice,
|y − g|² = |r|² + 2 r · (fit − g) + |fit − g|² ≥ |r|². Inputs and targets are integers, so are the rays, and all is done
in fractions. The certificate lists r for every choice; nothing else is needed to check it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, product
from math import atan2, gcd, tau

Vector = tuple[int, ...]
Exact = tuple[Fraction, ...]
Choice = tuple[tuple[int, int], tuple[int, int]]  # (sign, ray) of the first neuron, (sign, cone) of the other


@dataclass(frozen=True)
class Problem:
    """n inputs in the plane and targets, integers."""

    inputs: tuple[tuple[int, int], ...]
    targets: Vector

    def rays(self) -> list[tuple[int, int]]:
        """The rays between cones, counter-clockwise: both perpendiculars of every input, each direction once."""
        rays = set()
        for x, y in self.inputs:
            common = gcd(x, y)
            rays |= {(-y // common, x // common), (y // common, -x // common)}
        # Directions of small integers differ by far more than the rounding of their angles.
        return sorted(rays, key=lambda ray: atan2(ray[1], ray[0]) % tau)

    def feature(self, ray: tuple[int, int]) -> Vector:
        """φ(e) = max(0, X e)."""
        return tuple(max(0, x * ray[0] + y * ray[1]) for x, y in self.inputs)


@dataclass(frozen=True)
class Certificate:
    """L* (a mean of squares) for a first neuron that leaves `cone`; for every choice, the residual that proves it."""

    problem: Problem
    cone: int
    bound: Fraction
    residuals: dict[Choice, Exact]


def cone_of(problem: Problem, weights: Sequence[float | Fraction]) -> int:
    """The cone in which inner weights lie: 2 numbers, off all rays."""
    signs = [x * weights[0] + y * weights[1] > 0 for x, y in problem.inputs]
    rays = problem.rays()
    for index, (one, other) in enumerate(zip(rays, [*rays[1:], rays[0]], strict=True)):
        middle = (one[0] + other[0], one[1] + other[1])
        if [x * middle[0] + y * middle[1] > 0 for x, y in problem.inputs] == signs:
            return index
    raise ArithmeticError("every direction is in a cone")


def choices(problem: Problem, cone: int) -> Iterator[Choice]:
    """Every sign, with a ray that bounds the cone for the first neuron and any cone for the other."""
    count = len(problem.rays())
    return product(product((1, -1), (cone, (cone + 1) % count)), product((1, -1), range(count)))


def columns(problem: Problem, choice: Choice) -> list[Vector]:
    """The signed features that a choice may combine with weights ≥ 0."""
    rays = problem.rays()
    first, (sign, cone) = choice
    edges = [first, (sign, cone), (sign, (cone + 1) % len(rays))]
    return [tuple(sign * item for item in problem.feature(rays[ray])) for sign, ray in edges]


def certify(problem: Problem, cone: int) -> Certificate:
    """The lowest loss of two neurons, the first of them on a ray of the cone, with its proof."""
    residuals = {choice: _residual(columns(problem, choice), problem.targets) for choice in choices(problem, cone)}
    bound = min(_dot(r, r) for r in residuals.values()) / len(problem.targets)
    return Certificate(problem, cone, bound, residuals)


def _residual(features: Sequence[Vector], targets: Vector) -> Exact:
    """y − fit of non-negative least squares: the support on which the normal equations and all signs hold."""
    for count in range(len(features) + 1):
        for support in combinations(range(len(features)), count):
            chosen = [features[index] for index in support]
            weights = _solve([[_dot(f, g) for g in chosen] for f in chosen], [_dot(f, targets) for f in chosen])
            if weights is None or any(weight < 0 for weight in weights):
                continue
            residual = tuple(
                Fraction(target) - sum((w * f[i] for w, f in zip(weights, chosen, strict=True)), Fraction(0))
                for i, target in enumerate(targets)
            )
            if all(_dot(feature, residual) <= 0 for feature in features):
                return residual
    raise ArithmeticError("non-negative least squares has no solution, which cannot be")


def _dot(one: Sequence[int | Fraction], other: Sequence[int | Fraction]) -> Fraction:
    return sum((Fraction(a) * b for a, b in zip(one, other, strict=True)), Fraction(0))


def _solve(matrix: list[list[Fraction]], right: list[Fraction]) -> list[Fraction] | None:
    """Gauss elimination in fractions; None where the matrix is singular."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for index in range(len(rows)):
        pivot = next((k for k in range(index, len(rows)) if rows[k][index]), None)
        if pivot is None:
            return None
        rows[index], rows[pivot] = rows[pivot], rows[index]
        rows[index] = [item / rows[index][index] for item in rows[index]]
        for k, row in enumerate(rows):
            if k != index and row[index]:
                rows[k] = [item - row[index] * other for item, other in zip(row, rows[index], strict=True)]
    return [row[-1] for row in rows]


def to_json(certificate: Certificate) -> dict[str, object]:
    """The certificate with all that is needed to check it by hand; fractions as text."""
    problem = certificate.problem
    return {
        "inputs": problem.inputs,
        "targets": problem.targets,
        "cone": certificate.cone,
        "neurons": 2,
        "bound": str(certificate.bound),
        "rays": problem.rays(),
        "residuals": [
            {"choice": choice, "residual": [str(item) for item in residual]}
            for choice, residual in certificate.residuals.items()
        ],
    }
