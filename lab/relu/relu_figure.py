"""The figure of the study of two-layer networks, from its record."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import TYPE_CHECKING, Any

from ...eval.figures import GREY, ORANGE, blank
from ..study_figures import COLOURS, NAMES
from .network import GEOMETRY, OPTIMIZERS
from .study import SOLVED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOOR = 1e-6  # a barrier that is drawn at the bottom of a logarithmic axis


def relu_figure(record: Mapping[str, Any]) -> Figure:
    """Sizes against the bound, barriers against width, the frontier of two regions, and the certified barrier."""
    figure = blank(11.0, 7.6)
    constraint, connectivity, regions, barrier = figure.subplots(2, 2).flat
    _sizes(constraint, record)
    _widths(connectivity, record)
    _regions(regions, record)
    _certified(barrier, record["barrier"])
    return figure


def _rows(record: Mapping[str, Any], kind: str, optimizer: str) -> tuple[list[float], list[Mapping[str, Any]]]:
    """The decays, or widths, of an optimizer in ascending order, and the parts of the record for them."""
    start = f"{kind}, {optimizer}, "
    parts = {float(name.removeprefix(start)): part for name, part in record.items() if name.startswith(start)}
    return sorted(parts), [parts[number] for number in sorted(parts)]


def _sizes(axis: Axes, record: Mapping[str, Any]) -> None:
    for optimizer in OPTIMIZERS:
        decays, rows = _rows(record, "constraint", optimizer)
        for geometry, style in (("entrywise", "-"), ("spectral", "--")):
            values = [decay * max(part[geometry]) for decay, part in zip(decays, rows, strict=True)]
            label = f"{NAMES[optimizer]}, {geometry}"
            width = 2.4 if GEOMETRY[optimizer] == geometry else 0.9
            axis.plot(decays, values, style, color=COLOURS[optimizer], linewidth=width, label=label)
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set(xscale="log", yscale="log", xlabel="weight decay λ", ylabel="largest norm × λ (bold: the bounded one)")
    axis.legend(frameon=False, fontsize="x-small")


def _widths(axis: Axes, record: Mapping[str, Any]) -> None:
    for optimizer in OPTIMIZERS:
        widths, rows = _rows(record, "connectivity", optimizer)
        for way, style in (("permuted", ":"), ("bent", "-")):
            values = [max(FLOOR, mean(part[way])) for part in rows]
            axis.plot(widths, values, style, color=COLOURS[optimizer], label=f"{NAMES[optimizer]}, {way}")
        built = [width for width, part in zip(widths, rows, strict=True) if all(part["constructed"])]
        size = 4 + 3 * OPTIMIZERS.index(optimizer)
        axis.plot(built, [FLOOR] * len(built), "o", color=COLOURS[optimizer], markersize=size, fillstyle="none")
    suffices = record["data"]["width_that_suffices"]
    axis.axvline(suffices, color=GREY, linewidth=0.8, label="width that suffices (spectral)")
    axis.set(xscale="log", yscale="log", xlabel="width", ylabel="barrier (circles: 0 by construction)")
    axis.set_ylim(top=30)
    axis.legend(frameon=False, fontsize="x-small", loc="upper center", ncols=3)


def _regions(axis: Axes, record: Mapping[str, Any]) -> None:
    regions = record["regions"]
    boxes, radii = (list(one) for one in zip(*regions["curve"], strict=True))
    boxes, radii = [*boxes, 10 * boxes[-1]], [*radii, radii[-1]]
    low = regions["least_spectral"]
    axis.fill_between(boxes, radii, 10 * low, color="#e8f0e4", label="regions overlap")
    axis.fill_between(boxes, [low] * len(boxes), radii, color="#f6d7c3", label="disjoint")
    for optimizer in OPTIMIZERS:
        places = [
            (record["settings"]["networks"]["wide"] * entry**2, norm**2)
            for part in _rows(record, "constraint", optimizer)[1]
            for entry, norm, loss in zip(part["entrywise"], part["spectral"], part["loss"], strict=True)
            if loss < SOLVED
        ]
        if places:
            axis.plot(*zip(*places, strict=True), ".", color=COLOURS[optimizer], label=f"{NAMES[optimizer]}, trained")
    axis.set(xscale="log", yscale="log", xlabel="κ² = width × largest entry²", ylabel="c² = largest spectral norm²")
    axis.set(xlim=(0.9 * boxes[0], boxes[-1]), ylim=(0.9 * low, 10 * low))
    axis.legend(frameon=False, fontsize="x-small", loc="upper left")


def _certified(axis: Axes, barrier: Mapping[str, Any]) -> None:
    top, bottom = map(int, barrier["certificate"]["bound"].split("/"))
    values = {"certified bound": top / bottom}
    for index, height in enumerate(barrier["attack"] or []):
        values[f"attack, order {index + 1}"] = height
    axis.bar(list(values), list(values.values()), 0.5, color=[ORANGE, *[GREY] * (len(values) - 1)])
    axis.set_ylabel("barrier, mean squared error")
