"""What takes time in a merge, in amounts that each have a speed on a machine; and the stages that it comes in."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Work:
    """Amounts of work, or the seconds that one of each takes.

    `evaluated` are tokens through the whole model without gradients, `trained` those of training steps, `steps` these
    steps; `written` tokens that a model writes, `moments` how often it writes the next one of all its texts. `products`
    are floating-point operations of float32 matrix products, `singular` n³ over all singular value decompositions of
    n × n matrices in float64, `assigned` n² over all assignment problems of n rows. `moved` are bytes of weights that
    are combined in memory, `read` and `stored` bytes from and to the disk; `fixed` seconds of what any machine does
    once, such as drawing figures.
    """

    evaluated: float = 0.0
    trained: float = 0.0
    steps: float = 0.0
    written: float = 0.0
    moments: float = 0.0
    products: float = 0.0
    singular: float = 0.0
    assigned: float = 0.0
    moved: float = 0.0
    read: float = 0.0
    stored: float = 0.0
    fixed: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: float) -> Work:
        return Work(*(times * amount for amount in astuple(self)))

    __rmul__ = __mul__

    def seconds(self, speed: Work) -> float:
        """How long it takes where one of each takes so long."""
        each: list[float] = [one * taken for one, taken in zip(astuple(self), astuple(speed), strict=True)]
        return sum(each)


NOTHING = Work()


@dataclass(frozen=True)
class Stage:
    """A stage of a merge, named as the progress bar names it, and the bytes of memory that it `holds` at its peak."""

    name: str
    work: Work
    holds: float = 0.0
