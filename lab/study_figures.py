"""The figures of the studies of small transformers, from their records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import cycle
from statistics import mean
from typing import TYPE_CHECKING, Any

from ..eval.figures import GREY, ORANGE, blank, loss_grid, without_frame
from .pairs import OPTIMIZERS, kind_of, optimizer_of
from .parts import spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"adamw": "#2563a8", "muon": ORANGE, "lion": "#1a7f5a"}
NAMES = {"adamw": "AdamW", "muon": "Muon", "lion": "Lion"}
MARKERS = "os^vDP*"
EACH = "each"  # a plane through one model of each optimizer
STARTS = (("docs", "o", "from docstrings"), ("code", "s", "from code"), ("average", "*", "from their average"))
WAY_STYLES: dict[str, dict[str, str]] = {
    "naive": {"color": GREY},
    "permutation": {"color": COLOURS["adamw"], "linestyle": ":"},
    "orthogonal": {"color": COLOURS["adamw"], "linestyle": "--"},
    "combined": {"color": COLOURS["adamw"]},
    "learned": {"color": COLOURS["lion"]},
    "one bend": {"color": ORANGE},
}
DEPTH = 4.0  # nats that the shades of planes span


def table_figure(record: Mapping[str, Any]) -> Figure:
    """Mean barriers of every kind of pair by alignment, with standard deviations."""
    figure = blank(9.0, 4.0)
    axis = figure.subplots()
    ways = list(dict.fromkeys(row["way"] for row in record["table"]))
    kinds = list(dict.fromkeys(row["kind"] for row in record["table"]))
    for index, way in enumerate(ways):
        bars = [row for kind in kinds for row in record["table"] if row["kind"] == kind and row["way"] == way]
        places = [place + (index - (len(ways) - 1) / 2) * 0.13 for place in range(len(kinds))]
        shade = str(0.8 - 0.7 * index / len(ways)) if index < len(ways) - 1 else ORANGE
        heights, errors = ([row[key] for row in bars] for key in ("mean", "std"))
        axis.bar(places, heights, 0.12, yerr=errors, color=shade, label=way, error_kw={"linewidth": 0.8})
    axis.set_xticks(range(len(kinds)), [_kind(kind) for kind in kinds])
    axis.set_ylabel("barrier, nats per token")
    axis.legend(frameon=False, ncols=3)
    return without_frame(figure)


def spectra_figure(record: Mapping[str, Any]) -> Figure:
    """Stable ranks along paths, and the numbers that the thresholds of the verdict divide."""
    figure = blank(11.0, 7.6)
    ranks, *thresholds = figure.subplots(2, 2).flat
    for name, path in record["paths"].items():
        a, b, by = name.split(", ")
        ends = (optimizer_of(a), optimizer_of(b))
        ts, values = ([point[key] for point in path["points"]] for key in ("t", "stable_rank"))
        colour = COLOURS[ends[0]] if ends[0] == ends[1] else GREY
        ranks.plot(ts, values, "--" if by == "muon" else "-", color=colour, linewidth=0.9, alpha=0.8)
    for optimizer in OPTIMIZERS:
        ranks.plot([], [], color=COLOURS[optimizer], label=f"{NAMES[optimizer]}, {NAMES[optimizer]}")
    ranks.plot([], [], color=GREY, label="two optimizers")
    ranks.plot([], [], "k--", linewidth=0.9, label="bend by Muon")
    ranks.set(xlabel="t", ylabel="stable rank, mean over matrices")
    ranks.legend(frameon=False, fontsize="small")
    labels = {
        "same_kind": ("spectral distance, nats", "one optimizer", "two optimizers"),
        "max_excess": ("excess, one optimizer, nats", "paths", "averages"),
        "max_excess_apart": ("excess, two optimizers, nats", "paths", "averages"),
    }
    for axis, threshold in zip(thresholds, record["thresholds"], strict=True):
        what, low, high = labels[threshold["name"]]
        axis.hist([threshold["low"], threshold["high"]], 20, color=[COLOURS["adamw"], ORANGE], label=[low, high])
        axis.axvline(threshold["chosen"], color="black", linewidth=1, label=f"threshold, {threshold['chosen']:.3f}")
        axis.set_xlabel(f"{what} (held-out pairs)")
        axis.legend(frameon=False, fontsize="small")
    return without_frame(figure)


def planes_figure(record: Mapping[str, Any]) -> Figure:
    """The loss on the first plane of every kind, before and after alignment, on one scale."""
    first = {_triple(name): ways for name, ways in record["planes"].items() if ways["before"]["plane"]}
    kinds = [kind for kind in (*COLOURS, EACH) if kind in first]
    lowest = min(min(measured["ends"]) for kind in kinds for measured in first[kind].values())
    levels = [lowest - 0.1 + DEPTH * (step / 14) ** 1.5 for step in range(15)]
    figure = blank(3.0 * len(kinds), 6.0)
    axes = figure.subplots(2, len(kinds), squeeze=False)
    for row, way in enumerate(("before", "after")):
        for axis, kind in zip(axes[row], kinds, strict=True):
            plane = first[kind][way]["plane"]
            shades = axis.contourf(plane["x"], plane["y"], loss_grid(plane), levels, cmap="Purples", extend="both")
            for one in plane["models"]:
                colour = COLOURS[optimizer_of(one["name"])]
                axis.plot([one["x"]], [one["y"]], "o", color=colour, markeredgecolor="white", markersize=9)
            axis.set(aspect="equal", xticks=[], yticks=[])
            axis.set_title(f"{NAMES.get(kind, 'one of each')}, {way} alignment", fontsize="medium")
    figure.colorbar(shades, ax=axes, label="loss, nats per token", format="%.1f", shrink=0.6)
    return figure


def generalization_figure(record: Mapping[str, Any]) -> Figure:
    """Excess losses along paths on every text, and what a path point adds to an ensemble."""
    figure = blank(11.0, 4.0)
    labels = [label for label in next(iter(record["pairs"].values())) if label != "t"]
    *along, gains = figure.subplots(1, len(labels) + 1)
    kinds = list(dict.fromkeys(map(kind_of, record["pairs"])))
    for axis, label in zip(along, labels, strict=True):
        for kind in kinds:
            excesses = [pair[label]["excess"] for name, pair in record["pairs"].items() if kind_of(name) == kind]
            means = [mean(column) for column in zip(*excesses, strict=True)]
            ts = [index / (len(means) - 1) for index in range(len(means))]
            style = "-" if len(set(kind.split("-"))) == 1 else "--"
            axis.plot(ts, means, label=_kind(kind), color=_colour(kind), linestyle=style)
        axis.axhline(0, color=GREY, linewidth=0.8)
        axis.set(title=label, xlabel="t")
    along[0].set_ylabel("excess loss, nats per token")
    figure.legend(*along[0].get_legend_handles_labels(), loc="outside upper left", ncols=len(kinds), frameon=False)
    for index, (label, marker) in enumerate(zip(labels, cycle(MARKERS), strict=False)):
        for place, kind in enumerate(kinds):
            added = [
                pair[label]["third_over_two"][0] for name, pair in record["pairs"].items() if kind_of(name) == kind
            ]
            point = ([place + 0.15 * index], [mean(added)], [spread(added)])
            gains.errorbar(*point, fmt=marker, color=_colour(kind), markersize=5)
        gains.plot([], [], marker, color=GREY, label=label)
    gains.legend(frameon=False, fontsize="small")
    gains.set_xticks(range(len(kinds)), [_kind(kind) for kind in kinds], rotation=60, fontsize="small")
    gains.axhline(0, color=GREY, linewidth=0.8)
    gains.set_ylabel("gain of the ensemble by a point, nats")
    return without_frame(figure)


def practice_figure(record: Mapping[str, Any]) -> Figure:
    """Barriers and gains of merges by the optimizers of both fine-tunes, and losses after more training."""
    figure = blank(9.6, 3.6)
    axes = figure.subplots(1, 3)
    for axis, key, title in ((axes[0], "barrier", "barrier, nats"), (axes[1], "gain", "gain of the average, nats")):
        table = [[_mean_of(record["merges"], key, one, other) for other in OPTIMIZERS] for one in OPTIMIZERS]
        axis.imshow(table, cmap="Purples")
        for row, values in enumerate(table):
            for column, value in enumerate(values):
                axis.text(column, row, f"{value:.3f}", ha="center", va="center", color=ORANGE, fontweight="bold")
        axis.set_xticks(range(3), NAMES.values())
        axis.set_yticks(range(3), NAMES.values())
        axis.set(xlabel="fine-tuned on code by", ylabel="fine-tuned on docstrings by", title=title)
    trained_on = list(dict.fromkeys(map(optimizer_of, record["further"])))
    for place, optimizer in enumerate(trained_on):
        for shift, (start, marker, label) in enumerate(STARTS):
            losses = [run[start]["after"] for name, run in record["further"].items() if optimizer_of(name) == optimizer]
            point = ([place + 0.2 * (shift - 1)], [mean(losses)], [spread(losses)])
            axes[2].errorbar(*point, fmt=marker, color=COLOURS[optimizer], label=None if place else label)
    axes[2].set_xticks(range(len(trained_on)), [NAMES[name] for name in trained_on])
    axes[2].set_ylabel("loss after training on, nats")
    axes[2].legend(frameon=False, fontsize="small")
    return without_frame(figure, axes[2:])


def width_figure(record: Mapping[str, Any]) -> Figure:
    """Mean barriers against width, with standard deviations, for every optimizer and way; the axis of barriers is
    logarithmic above 0.01 nats and linear below, where some are 0.
    """
    highest = max(row[way]["mean"] + row[way]["std"] for row in record["table"] for way in WAY_STYLES)
    figure = blank(9.6, 4.2)
    optimizers = list(dict.fromkeys(row["optimizer"] for row in record["table"]))
    axes = list(figure.subplots(1, len(optimizers), sharey=True, squeeze=False).flat)
    for axis, optimizer in zip(axes, optimizers, strict=True):
        rows = [row for row in record["table"] if row["optimizer"] == optimizer]
        widths = [row["width"] for row in rows]
        for (way, style), marker in zip(WAY_STYLES.items(), MARKERS, strict=False):
            means, errors = ([row[way][key] for row in rows] for key in ("mean", "std"))
            axis.errorbar(widths, means, yerr=errors, marker=marker, markersize=5, capsize=2, label=way, **style)
        axis.set(xscale="log", xlabel="width", title=NAMES[optimizer])
        axis.set_yscale("symlog", linthresh=0.01)
        axis.set_ylim(-0.001, 1.5 * highest)
        axis.set_xticks(widths, [str(width) for width in widths])
        axis.minorticks_off()
    axes[0].set_ylabel("barrier, nats per token")
    axes[-1].legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return without_frame(figure)


def _triple(names: str) -> str:
    optimizers = {optimizer_of(name) for name in names.split(", ")}
    return optimizers.pop() if len(optimizers) == 1 else EACH


def _kind(kind: str) -> str:
    return ", ".join(NAMES[name] for name in kind.split("-"))


def _colour(kind: str) -> str:
    one, other = kind.split("-")
    return COLOURS[one] if one == other else {"adamw-muon": "black", "adamw-lion": GREY}.get(kind, "#7a4fa3")


def _mean_of(merges: Mapping[str, Any], key: str, one: str, other: str) -> float:
    values: Iterable[Any] = (
        merge[key] for name, merge in merges.items() if name.startswith(f"{one}-docs") and f", {other}-code" in name
    )
    return float(mean(value[0] if isinstance(value, list) else value for value in values))
