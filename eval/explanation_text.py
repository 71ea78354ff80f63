"""What an explanation says in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from ..checkpoint.card import letter
from .explanation import MLP, NORMS, OTHER

SAME = 1e-3  # of the distance between parents: a layer this close to one of them is that one's
EQUAL = 0.01  # distances that differ by less, relatively, are called the same
EXACT = 5e-4  # of the squared norm of a task vector: what rounds to 0.0 %
EVEN = 0.02  # weights of layers that differ by less are said to be alike
Facts = Mapping[str, Any]


def explained(report: Facts) -> list[str]:
    """Three to six sentences: where the merge is, what it keeps, where the parents conflict, which layers matter."""
    said = [_nearest(report), _made_of(report), _by_layer(report), _conflict(report), _left_out(report)]
    if report["swaps"] is not None:
        said += [_matters(report), _gain(report)]
    return [sentence for sentence in said if sentence]


def parent_names(report: Facts) -> list[str]:
    """The parents with their letters: A (docs), B (code)."""
    return [f"{letter(place)} ({end['ref']})" for place, end in enumerate(report["endpoints"])]


def pair_letters(report: Facts) -> list[str]:
    """The pairs of parents in the order of ``apart`` and ``cosines``: AB, AC, ..., BC."""
    letters = [letter(place) for place in range(len(report["endpoints"]))]
    return ["".join(pair) for pair in combinations(letters, 2)]


def _nearest(report: Facts) -> str:
    total, names = report["total"], parent_names(report)
    distances = total["distances"]
    if None in distances:
        return "The merge is zero everywhere that models are compared."
    order = sorted(range(len(names)), key=lambda place: distances[place])
    apart = max(total["apart"], default=0.0)
    if distances[order[0]] == 0:
        return f"The merge has the weights of {names[order[0]]}, to the last digit."
    if distances[order[1]] - distances[order[0]] < EQUAL * distances[order[0]]:
        two = f"{names[min(order[:2])]} and {names[max(order[:2])]}"
        near = f"The merge is equally far from {two}: {distances[order[0]]:.3g} of its norm"
        return f"{near}; the parents are {'at most ' * (len(names) > 2)}{apart:.3g} apart."
    others = ", ".join(f"{names[place]} is {distances[place]:.3g} away" for place in order[1:])
    between = f"the parents are {'at most ' * (len(names) > 2)}{apart:.3g} apart"
    near = f"The merge lies closest to {names[order[0]]}, {distances[order[0]]:.3g} of its norm away"
    return f"{near}; {others}, and {between}."


def _made_of(report: Facts) -> str:
    total, weights = report["total"], report["total"]["weights"]
    if weights is None:
        return (
            "The parents do not differ from each other." if not report["base"] else "No parent differs from the base."
        )
    shares = [f"{weight:.2f} of {letter(place)}" for place, weight in enumerate(weights)]
    if report["alignment"]["how"] == "recovered":
        return (
            f"It is {_listed(shares)}, as its record says: its alignment was fitted to text, so B is read off the "
            "merge, and how far it lies off that line cannot be seen."
        )
    rest = total["unexplained"]
    if report["base"]:
        none = rest is None or rest < EXACT
        owed = "together they make up all of its own" if none else f"{_percent(rest)} of its own comes from neither"
        kept = _listed([f"{weight:.2f} of that of {letter(place)}" for place, weight in enumerate(weights)])
        return f"Of the parents' task vectors it keeps {kept}; {owed}."
    between = "line" if len(weights) == 2 else "plane"
    off = f"{rest:.2g} of their distance off the {between} through them" if rest else f"on the {between} through them"
    return f"It is best described as {_listed(shares)}, and lies {off}."


def _by_layer(report: Facts) -> str:
    layers = [row for row in report["layers"] if row["weights"] is not None]
    if len(layers) < 2:
        return ""
    taken = [(row["layer"], _owner(row)) for row in layers]
    single = {owner for _, owner in taken}
    if single != {None} and len(single) > 1:
        owners = sorted(one for one in single if one is not None)
        parts = [_counted("layer", [layer for layer, own in taken if own == owner], letter(owner)) for owner in owners]
        return f"{_capital(_listed(parts))}."
    if len(single) == 1 and None not in single:
        return ""
    spread = [max(_column(layers, place)) - min(_column(layers, place)) for place in range(len(report["endpoints"]))]
    if max(spread) < EVEN:
        return "The parents count alike in all layers."
    most = []
    for place in range(len(report["endpoints"])):
        row = max(layers, key=lambda row: row["weights"][place])
        most.append(f"{letter(place)} counts most in layer {row['layer']} ({row['weights'][place]:.2f})")
    return f"{_listed(most)}."


def _left_out(report: Facts) -> str:
    return "Heads are not compared: the models have different labels." if report.get("left_out") else ""


def _column(rows: Sequence[Facts], place: int) -> list[float]:
    return [row["weights"][place] for row in rows]


def _owner(row: Facts) -> int | None:
    """The parent that a layer is that of; None where it is a mixture, or the parents do not differ."""
    distances = row["distances"]
    if None in distances or not any(row["apart"]):
        return None
    nearest = min(range(len(distances)), key=lambda place: distances[place])
    others = [distance for place, distance in enumerate(distances) if place != nearest]
    return nearest if others and distances[nearest] <= SAME * min(others) and min(others) > 0 else None


def _counted(what: str, layers: Sequence[int], owner: str) -> str:
    if len(layers) == 1:
        return f"{what} {layers[0]} is that of {owner}"
    return f"{what}s {_listed([str(layer) for layer in layers])} are those of {owner}"


def _conflict(report: Facts) -> str:
    cells = [row for row in report["cells"] if row["part"] not in (NORMS, OTHER)]
    if report["base"]:
        cells = [row for row in cells if None not in row["cosines"]]
        if not cells:
            return ""
        row = min(cells, key=lambda row: min(row["cosines"]))
        pair = pair_letters(report)[row["cosines"].index(min(row["cosines"]))]
        signs = f"{_percent(row['conflict'])} of the entries ({_percent(row['conflict_by_magnitude'])} by magnitude)"
        return (
            f"The task vectors of {pair[0]} and {pair[-1]} agree least in {_where(row)}: cosine "
            f"{min(row['cosines']):.2f}, and signs differ in {signs}."
        )
    cells = [row for row in cells if any(row["apart"]) and None not in row["apart"]]
    if not cells:
        return ""
    row = max(cells, key=lambda row: max(row["apart"]))
    return f"The parents are furthest apart in {_where(row)}: {max(row['apart']):.3g} of the merge's norm there."


def _where(row: Facts) -> str:
    kind = {"attention": "attention", MLP: "MLP"}.get(row["part"])
    inside = row["kind"] if kind is None else f"{row['kind']} ({kind})"
    return inside if row["layer"] is None else f"layer {row['layer']}, {inside}"


def swap_name(row: Facts) -> str:
    """What a swap takes, and from which parent: layer 2 of B."""
    what = f"layer {row['layer']}" if row["layer"] is not None else f"{row['part']} of all layers"
    what = row["part"] if row["part"] in ("embeddings", "head", "other") else what
    return f"{what} of {letter(row['parent'])}"


def _swap_in_words(row: Facts) -> str:
    name = swap_name(row)
    return name if row["layer"] is not None else f"the {name}"


def _matters(report: Facts) -> str:
    layers = [row for row in report["swaps"]["rows"] if row["layer"] is not None]
    if not layers:
        return ""
    row = max(layers, key=lambda row: row["difference"])
    if not row["difference"] > 2 * row["stderr"]:
        return "No single layer of a parent raises the loss by more than the noise."
    parts = [other for other in report["swaps"]["rows"] if other["part"] is not None]
    worst = max(parts, key=lambda other: other["difference"])
    return (
        f"Layer {row['layer']} matters most: that of {letter(row['parent'])} in its place raises the loss by "
        f"{_change(row)}; of the parts, {_swap_in_words(worst)}, by {_change(worst)}."
    )


def _gain(report: Facts) -> str:
    best = report["swaps"]["best"]
    if best is None:
        return "No layer or part of a parent in place of the merge's lowers the loss."
    other = f"{-best['report_difference']:.4f} ± {best['report_stderr']:.4f} nats"
    if best["gains"]:
        return f"The merge would gain by taking {_swap_in_words(best)}: {other} on text that did not choose it."
    return (
        f"The best swap, {_swap_in_words(best)}, lowers the loss by {-best['difference']:.4f} nats on the text that "
        f"chose it, and by {other} on other text: that is no gain beyond the noise."
    )


def _change(row: Facts) -> str:
    return f"{row['difference']:.4f} ± {row['stderr']:.4f} nats"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
