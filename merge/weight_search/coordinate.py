"""The choice of weights on the select text: uniform, greedy, or searched.

- **greedy** (Wortsman et al. 2022, arXiv 2203.05482): models from the best to the worst; one enters the average if that
  does not make it worse.
- **search**: coordinate descent from the better of uniform and greedy weights: towards a model and away from it,
  with all others in proportion (weights on the simplex), or one weight alone (weights of task vectors). After a step up
  and a step down, the lowest point of the parabola through the three losses is tried; steps are halved when a round of
  all directions gains little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...eval.loss import Losses

Weights = tuple[float, ...]

FIRST_STEP, LAST_STEP = 0.25, 0.03
WORTH = 1e-3  # nats that a round of all directions has to bring for another one with the same step
EVALUATIONS = 60
LARGEST = 2.0  # of a task vector's weight


@dataclass
class WeightSearch:
    """Search for the weights of `count` models; every soup is measured once: weights → losses on the select text.

    With `simplex`, weights sum to 1.
    """

    measure: Callable[[Weights], Losses]
    count: int
    simplex: bool
    budget: int = EVALUATIONS
    losses: dict[Weights, Losses] = field(default_factory=dict)

    def loss(self, weights: Sequence[float]) -> float:
        """The mean loss of the soup with these weights."""
        key = tuple(round(weight, 6) for weight in weights)
        if key not in self.losses:
            self.losses[key] = self.measure(key)
        return self.losses[key].mean

    def uniform(self) -> Weights:
        """Equal weights that sum to 1: the mean of models, or of task vectors."""
        return (1.0 / self.count,) * self.count

    def greedy(self) -> Weights:
        """The greedy soup."""
        order = sorted(range(self.count), key=lambda i: self.loss(self._average([i])))
        taken = [order[0]]
        for index in order[1:]:
            if self.loss(self._average([*taken, index])) <= self.loss(self._average(taken)):
                taken.append(index)
        return self._average(taken)

    def _average(self, taken: Sequence[int]) -> Weights:
        return tuple((i in taken) / len(taken) for i in range(self.count))

    def search(self) -> Weights:
        """The weights of the lowest loss among at most `budget` soups."""
        best, step = min(self.uniform(), self.greedy(), key=self.loss), FIRST_STEP
        while step >= LAST_STEP and len(self.losses) < self.budget:
            before = self.loss(best)
            for index in range(self.count):
                best = self._along(best, index, step)
            if before - self.loss(best) < WORTH:
                step /= 2
        return min(self.losses, key=lambda weights: self.losses[weights].mean)

    def _along(self, best: Weights, index: int, step: float) -> Weights:
        """The best of no step, one up, one down, and one to the parabola's vertex, in the direction of one model."""
        places = {0.0: best}
        for along in (step, -step):
            moved = self._moved(best, index, along)
            if moved is not None and len(self.losses) < self.budget:
                places[along] = moved
                self.loss(moved)
        if len(places) == 3:
            lowest = _vertex([self.loss(places[along]) for along in (-step, 0.0, step)], step)
            moved = self._moved(best, index, lowest) if lowest is not None else None
            if moved is not None and len(self.losses) < self.budget:
                places[float(lowest or 0.0)] = moved
        return min(places.values(), key=self.loss)

    def _moved(self, weights: Weights, index: int, along: float) -> Weights | None:
        """Weights moved towards one model, rounded; None where they leave the simplex, or the range of one weight."""
        if self.simplex:
            moved = [weight * (1 - along) + along * (i == index) for i, weight in enumerate(weights)]
            allowed = min(moved) >= -1e-9
        else:
            moved = [weight + along * (i == index) for i, weight in enumerate(weights)]
            allowed = 0 <= moved[index] <= LARGEST
        return tuple(round(max(0.0, weight), 6) for weight in moved) if allowed else None


def _vertex(losses: Sequence[float], step: float) -> float | None:
    """Where the parabola through three losses at −step, 0 and step is lowest, if that is within two steps."""
    low, middle, high = losses
    curvature = low - 2 * middle + high
    if curvature <= 0:
        return None
    place = 0.5 * step * (low - high) / curvature
    return place if abs(place) <= 2 * step else None
