"""The style of the figures of the studies: colours and names of optimizers, axes without a frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..eval.figures import ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"adamw": "#2563a8", "muon": ORANGE, "lion": "#1a7f5a"}
NAMES = {"adamw": "AdamW", "muon": "Muon", "lion": "Lion"}


def blank(width: float, height: float) -> Figure:
    """An empty figure, its size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def without_frame(figure: Figure, axes: Sequence[Axes] | None = None) -> Figure:
    """The figure without upper and right frames, on all axes or on some."""
    for axis in figure.axes if axes is None else axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure
