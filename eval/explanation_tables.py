"""The tables and heat maps that show the figures of an explanation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..checkpoint.card import letter
from .explanation_text import Facts, pair_letters

DISTANCE = "#.3g"  # three digits, however small
PALE = 0.05  # of the largest figure of a heat map: the least difference that gets the full colour


@dataclass(frozen=True)
class Column:
    """One figure of a row of ``layers``, ``kinds`` or ``cells``: a short name, what it is, what reads it."""

    title: str
    meaning: str
    read: Callable[[Facts], float | None]
    format: str = ".3f"

    def shown(self, row: Facts) -> str:
        """The figure as text; – where it is undefined."""
        value = self.read(row)
        return "–" if value is None else _figure(value, self.format)


def _figure(value: float, form: str) -> str:
    text = f"{value:{form}}"
    return text.replace("-", "−") if float(text) else text.removeprefix("-")


def columns(report: Facts) -> list[Column]:
    """All figures of a row."""
    letters, pairs = [letter(place) for place in range(len(report["endpoints"]))], pair_letters(report)

    def of(key: str, place: int) -> Callable[[Facts], float | None]:
        return lambda row: None if row[key] is None else row[key][place]

    based = bool(report["base"])
    share, rest = (
        ("share of the task vector of", "share of its own task vector that is none of theirs")
        if based
        else ("weight of", "distance from the line or plane through the parents")
    )
    shown = [
        Column(f"to {name}", f"distance from {name}", of("distances", place), DISTANCE)
        for place, name in enumerate(letters)
    ]
    shown += [
        Column(f"{pair} apart", f"distance of {pair[0]} from {pair[-1]}", of("apart", place), DISTANCE)
        for place, pair in enumerate(pairs)
    ]
    shown += [Column(f"of {name}", f"{share} {name}", of("weights", place)) for place, name in enumerate(letters)]
    shown.append(Column("unexplained", rest, lambda row: row["unexplained"]))
    if based:
        shown += [
            Column(f"cos {pair}", f"cosine of the task vectors of {pair[0]} and {pair[-1]}", of("cosines", place))
            for place, pair in enumerate(pairs)
        ]
        shown.append(Column("signs", "share of entries whose signs differ", lambda row: row["conflict"]))
        shown.append(Column("by size", "the same by magnitude", lambda row: row["conflict_by_magnitude"]))
    return shown


def heat_maps(report: Facts) -> list[dict[str, Any]]:
    """One map of layers (rows) × kinds (columns) for every figure: title, meaning, kinds, rows of (layer, cells).

    A cell is None where there is no such tensor, or its text and its heat: 0 for the lowest figure, 1 for the highest.
    Figures that hardly differ are all pale.
    """
    kinds = [(row["part"], row["kind"]) for row in report["kinds"]]
    layers = sorted({row["layer"] for row in report["cells"]}, key=lambda layer: -1 if layer is None else layer)
    cells = {(row["layer"], row["part"], row["kind"]): row for row in report["cells"]}
    maps = []
    for column in columns(report):
        values = [value for row in cells.values() if (value := column.read(row)) is not None]
        low, high = min(values, default=0.0), max(values, default=0.0)
        span = max(high - low, PALE * max(abs(low), abs(high)), 1e-9)

        rows = []
        for layer in layers:
            shown = [_cell(column, cells.get((layer, *kind)), low, span) for kind in kinds]
            rows.append(("–" if layer is None else str(layer), shown))
        title = {"title": column.title, "meaning": column.meaning}
        maps.append({**title, "kinds": [kind for _, kind in kinds], "rows": rows})
    return maps


def _cell(column: Column, row: Facts | None, low: float, span: float) -> dict[str, Any] | None:
    if row is None:
        return None
    value = column.read(row)
    return {"text": column.shown(row), "heat": 0.0 if value is None else (value - low) / span}


def tables(report: Facts) -> list[tuple[str, list[str], list[tuple[str, list[str]]]]]:
    """The figures of every layer and of every kind, and the swaps: what rows are, columns, and rows as text."""
    shown = columns(report)
    heads = [column.title for column in shown]

    def cells(row: Facts) -> list[str]:
        return [column.shown(row) for column in shown]

    layers = [(str(row["layer"]), cells(row)) for row in report["layers"]]
    kinds = [(row["kind"], cells(row)) for row in report["kinds"]]
    content = [("layer", heads, [*layers, ("all", cells(report["total"]))]), ("kind", heads, kinds)]
    if report["swaps"]:
        rows = [
            (what, [f"{_figure(row['difference'], '+.4f')} ± {row['stderr']:.4f}" for row in same])
            for what, same in swaps_by_name(report)
        ]
        content.append(("loss by swapping, nats", [f"from {letter(p)}" for p in range(len(report["endpoints"]))], rows))
    return content


def swaps_by_name(report: Facts) -> list[tuple[str, list[Facts]]]:
    """The swaps of every layer and part, side by side for all parents; empty where none were measured."""
    groups: dict[str, list[Facts]] = {}
    for row in report["swaps"]["rows"] if report["swaps"] else ():
        what = f"layer {row['layer']}" if row["layer"] is not None else row["part"]
        groups.setdefault(what, []).append(row)
    return list(groups.items())
