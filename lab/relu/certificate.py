"""An exact lower bound on the barrier between zero-loss networks whose outer weights differ in sign, in two dimensions.

Let A and B, of m neurons, have different numbers of negative outer weights. However B's neurons are ordered, some a_j
has to change its sign along any path from A to B, so the path crosses a network with a_j = 0, which is one of m − 1
neurons: its loss is at least L*, the lowest loss of all networks of m − 1 neurons. No path can do better.

L* can be found exactly. The lines x_i · w = 0 cut the plane of w into cones, each between two neighbouring rays e, e'
perpendicular to inputs. In a cone the features max(0, X w) are linear: w = α e + β e' gives α φ(e) + β φ(e') with
φ(e) = max(0, X e), α, β ≥ 0, and the size of the outer weight goes into α and β. So for every choice of a sign and a
cone for each neuron, the lowest loss is that of a convex quadratic programme, non-negative least squares:

    min |Σ_j s_j (α_j φ(e_j) + β_j φ(e'_j)) − y|²  over α, β ≥ 0.

With r = y − fit at its solution, s_j φ · r ≤ 0 for all features proves it: for any other fit g of the cone,
|g − y|² = |r|² + 2 (fit − g) · r + |fit − g|² ≥ |r|², as fit · r = 0 and g · r ≤ 0. Inputs and targets are integers,
rays too, and all is done in fractions: the certificate lists r for every choice, and `check` needs nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cmp_to_key
from itertools import combinations, combinations_with_replacement, product
from math import gcd

Vector = tuple[int, ...]
Exact = tuple[Fraction, ...]
Choice = tuple[tuple[int, int], ...]  # (sign, cone) of every neuron


@dataclass(frozen=True)
class Problem:
    """n inputs in the plane and targets, integers."""

    inputs: tuple[tuple[int, int], ...]
    targets: Vector

    def rays(self) -> list[tuple[int, int]]:
        """The rays between cones, counter-clockwise: both perpendiculars of every input, each direction once."""
        found = set()
        for x, y in self.inputs:
            common = gcd(x, y)
            found |= {(-y // common, x // common), (y // common, -x // common)}
        return sorted(found, key=cmp_to_key(_turn))

    def feature(self, ray: tuple[int, int]) -> Vector:
        """φ(e) = max(0, X e)."""
        return tuple(max(0, x * ray[0] + y * ray[1]) for x, y in self.inputs)

    def cones(self) -> list[tuple[Vector, Vector]]:
        """The features of both rays of every cone."""
        features = [self.feature(ray) for ray in self.rays()]
        return list(zip(features, [*features[1:], features[0]], strict=True))


@dataclass(frozen=True)
class Certificate:
    """L* (a mean of squares) of networks of `neurons` neurons, and the residual r that proves it for every choice."""

    problem: Problem
    neurons: int
    bound: Fraction
    residuals: dict[Choice, Exact]


def _half(ray: tuple[int, int]) -> int:
    return 0 if ray[1] > 0 or (ray[1] == 0 and ray[0] > 0) else 1


def _turn(one: tuple[int, int], other: tuple[int, int]) -> int:
    """The order of two directions by angle."""
    if _half(one) != _half(other):
        return _half(one) - _half(other)
    return one[1] * other[0] - one[0] * other[1]


def choices(problem: Problem, neurons: int) -> Iterator[Choice]:
    """Every sign and cone for so many neurons, whose order does not matter."""
    single = list(product((1, -1), range(len(problem.rays()))))
    return combinations_with_replacement(single, neurons)


def columns(problem: Problem, choice: Choice) -> list[Vector]:
    """The features s φ that a choice may combine with weights ≥ 0."""
    cones = problem.cones()
    return [tuple(sign * item for item in feature) for sign, cone in choice for feature in cones[cone]]


def certify(problem: Problem, neurons: int) -> Certificate:
    """The lowest loss of a width, with its proof. Raises ArithmeticError when a programme is not solved."""
    residuals = {choice: _residual(columns(problem, choice), problem.targets) for choice in choices(problem, neurons)}
    bound = min(_dot(r, r) for r in residuals.values()) / len(problem.targets)
    return Certificate(problem, neurons, bound, residuals)


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
    """Everything that a reader needs to check it by hand; fractions as text."""
    problem = certificate.problem
    return {
        "inputs": problem.inputs,
        "targets": problem.targets,
        "neurons": certificate.neurons,
        "bound": str(certificate.bound),
        "rays": problem.rays(),
        "residuals": [
            {"choice": choice, "residual": [str(item) for item in residual]}
            for choice, residual in certificate.residuals.items()
        ],
    }
