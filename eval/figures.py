"""The figures of a merge: the loss along the path, and on the plane of a curve; and what all figures share."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .summary import profiles, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ORANGE, GREY = "#c2571a", "#808890"
STYLES = {"naive": (GREY, "--"), "line": ("#2563a8", "-"), "bent": ("#1a7f5a", "-")}


def png(figure: Figure) -> bytes:
    """The figure as PNG on white."""
    figure.patch.set(alpha=1.0, facecolor="white")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=160, metadata={"Software": None})
    return out.getvalue()


def blank(width: float, height: float) -> Figure:
    """An empty figure, its size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def without_frame(figure: Figure, axes: Iterable[Axes] | None = None) -> Figure:
    """The figure without upper and right frames, on all axes or on some."""
    for axis in figure.axes if axes is None else axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def loss_grid(plane: Mapping[str, Any]) -> list[list[float]]:
    """The losses of a plane in a report, NaN where they are None."""
    return [[math.nan if loss is None else loss for loss in row] for row in plane["loss"]]


def loss_figure(report: Mapping[str, Any]) -> Figure:
    """Loss along the path of a merge before and after alignment with standard-error bands, the merge, the ensemble."""
    figure = blank(7.2, 4.0)
    axis = figure.subplots()
    for kind, name, rows in profiles(report):
        ts, means, errors = ([row[key] for row in rows] for key in ("t", "loss", "stderr"))
        colour, style = STYLES[kind]
        axis.plot(ts, means, style, color=colour, label=name, marker="o", markersize=3.5)
        low, high = ([m + s * e for m, e in zip(means, errors, strict=True)] for s in (-1, 1))
        axis.fill_between(ts, low, high, color=colour, alpha=0.18, linewidth=0)
    point = report["merge_point"]
    label = f"merge, t = {point['t']:g}"
    place = ([point["t"]], [point["loss"]], [point["stderr"]])
    axis.errorbar(*place, fmt="*", markersize=14, color=ORANGE, label=label, zorder=5)
    ensemble = report["baselines"]["ensemble"]["loss"]
    axis.axhline(ensemble, color=GREY, linewidth=1, linestyle=":", label="ensemble of A and B")
    axis.set(xlabel="t   (0 = A, 1 = B)", ylabel=f"loss, {unit(report)}")
    axis.legend(frameon=False)
    return without_frame(figure)


def plane_figure(plane: Mapping[str, Any]) -> Figure:
    """Filled contours of the loss on a plane, with the models and the path."""
    figure = blank(6.4, 4.8)
    axis = figure.subplots()
    finite = [loss for row in plane["loss"] for loss in row if loss is not None]
    span = min(max(finite) - min(finite), 4) + 1e-6
    levels = [min(finite) + span * (step / 17) ** 2 for step in range(18)]
    shades = axis.contourf(plane["x"], plane["y"], loss_grid(plane), levels, cmap="Purples", extend="max")
    axis.contour(plane["x"], plane["y"], loss_grid(plane), levels[::2], colors=GREY, linewidths=0.5)
    figure.colorbar(shades, ax=axis, label="loss, nats per token", format="%.2f")
    if plane["path"]:
        axis.plot(*zip(*plane["path"], strict=True), color=ORANGE, linewidth=2)
    for model in plane["models"]:
        axis.plot([model["x"]], [model["y"]], "o", color=ORANGE, markeredgecolor="white", markersize=9)
        name, place = model["name"].replace("$", r"\$"), (model["x"], model["y"])
        axis.annotate(name, place, (6, 6), textcoords="offset points", fontweight="bold")
    axis.set(aspect="equal", xticks=[], yticks=[])
    return figure
