"""What a merge by an operator is, and what its weights bought, in sentences without full stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..checkpoint.card import letter

ROUNDING = 5e-4  # nats that the digits that are shown do not tell from nothing


def of_operator(report: Mapping[str, Any]) -> list[str]:
    """What was merged by what, how far it lies from the models, and what chosen weights or a trained centre did."""
    count, soup = len(report["endpoints"]), report["soup"]
    name = report["method"]["name"] if not report.get("star") else "the trained centre of their average"
    models = f"{count} model{'s' * (count > 1)}"
    base = f", on top of {report['base']['ref']}" if report["base"] else ""
    if not report["data"]:
        return [f"{models} merged by {name}{base}; without text, no loss was measured", *_composition(report)]
    point, baselines, method = report["merge_point"], report["baselines"], report["alignment"]["method"]
    averages = ""
    if "naive_average" in baselines:
        averages = f" ({baselines['naive_average']['excess']:+.3f} for the plain average"
        if method != "none":
            averages += f", {baselines['average']['excess']:+.3f} for that after {method} alignment"
        averages += ")"
    whose = "their mean loss" if count > 1 else "its loss"
    lines = [f"{models} merged by {name}{base}: {point['excess']:+.3f} nats against {whose}{averages}"]
    lines += _composition(report)
    lines += _star(report.get("star"))
    if soup:
        lines += _weights(soup)
    if count == 1:
        return lines
    return [*lines, gain_sentence(point, "best model" if count > 2 else "better endpoint")]


def _star(star: Mapping[str, Any] | None) -> list[str]:
    """How the centre of a star was trained, and how high the arms to it lie."""
    if not star:
        return []
    highest = ", ".join(f"{letter(place)} {arm['barrier']:.3f}" for place, arm in enumerate(star["arms"]))
    lines = [
        f"the centre was trained from the average on ({star['optimizer']}, {star['steps']} steps): select loss "
        f"{star['select_loss']:.3f}, {star['select_loss_average']:.3f} of the average",
        f"along the straight arms to it, losses rise by at most {highest} nats above the models' mean",
    ]
    if star["diverged_at"]:
        lines.append(
            f"training diverged at step {star['diverged_at']} (the loss was NaN or Inf): the centre of step "
            f"{star['best_step']} was kept; take a lower --bend-lr"
        )
    return lines


def _weights(soup: Mapping[str, Any]) -> list[str]:
    """The weights that were chosen, and whether they are worth it on the text that did not choose them."""
    listed = ", ".join(f"{letter(place)} {weight:.3g}" for place, weight in enumerate(soup["weights"]))
    whose = f"the {soup['kind']} soup"
    if soup.get("search") not in (None, "coordinate"):
        whose = f"the search ({soup['search']})"
        if soup["granularity"] != "model":
            whose += f", means over {len(soup['groups'])} groups of tensors by {soup['granularity']}"
    by_tasks = soup.get("objective") == "task"
    chosen, equal = soup["select_loss"], soup["select_loss_uniform"]
    how = f"select loss {chosen:.3f}, {equal:.3f}"
    if by_tasks:
        how = f"{100 * (1 - chosen):.1f} % on the documents that choose, {100 * (1 - equal):.1f} %"
    line = f"weights of {whose}: {listed} ({how} with equal ones; {soup['evaluations']} tried)"
    gain, error = soup.get("gain"), soup.get("gain_stderr")
    if gain is None or error is None:
        return [line]
    if by_tasks:
        return [line, f"on the text, they lower the loss of equal ones by {gain:.4f} ± {error:.4f} nats"]
    if abs(gain) < 2 * error or gain == 0:
        return [line, f"choosing weights bought nothing: {gain:+.4f} ± {error:.4f} nats against equal ones"]
    verb = "gained" if gain > 0 else "lost"
    return [line, f"choosing weights {verb} {abs(gain):.4f} ± {error:.4f} nats against equal ones"]


def _composition(report: Mapping[str, Any]) -> list[str]:
    """What a merge is put together from: stages, and layers of several models."""
    method, lines = report["method"], []
    stages = method.get("stages", ())
    if stages:
        made = ", ".join(f"{one['stage']} by {one['name']} of {listed(one['merged'])}" for one in stages)
        lines.append(f"merged in stages: {made}; last, {method['name']} of {listed(method['merged'])}")
    segments = method.get("segments", ())
    if any("sources" in segment for segment in segments):
        parts = []
        for segment in segments:
            start, stop = segment["layers"]
            parts.append(
                " with ".join(f"{_layers(first, first + stop - start)} of {of}" for of, first in segment["sources"])
            )
        lines.append(f"its {segments[-1]['layers'][1]} layers are {'; then '.join(parts)}")
    return lines


def _layers(start: int, stop: int) -> str:
    return f"{start}" if stop - start == 1 else f"{start} to {stop - 1}"


def gain_sentence(point: Mapping[str, Any], best: str = "better endpoint") -> str:
    """Whether a merge is better than the best of the models, and by how much."""
    gain, error = point["gain"], point["gain_stderr"]
    least = max(2 * error, ROUNDING)
    if gain > least:
        return f"the merge is better than the {best} by {gain:.3f} ± {error:.3f} nats"
    if gain < -least:
        return f"the merge is worse than the {best} by {-gain:.3f} ± {error:.3f} nats"
    return f"the merge and the {best} are equally good within the noise ({gain:+.3f} ± {error:.3f} nats)"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: A, B and C."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
