"""A merge report in short: the loss table and sentences, for the terminal, the page and the card alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..checkpoint.card import letter
from ..checkpoint.task import CLASSIFIERS, MASKED, TEXTS
from .corpora import WRITTEN

GIBBERISH = 1.0  # nats against the parents, from which on a merge needs an explanation
ROUNDING = 5e-4  # nats that the digits that are shown do not tell from nothing
VERDICTS = {
    "preserved": "the endpoints share one kind of spectrum, and the merge keeps it",
    "transition": (
        "the endpoints have different spectra (different optimizers leave different ones), "
        "and the merge lies between them"
    ),
    "contracted": (
        "the merge's singular values are smaller than either endpoint's: "
        "averaging cancelled weights that point different ways"
    ),
    "inflated": "the merge's singular values are larger than either endpoint's",
}


@dataclass(frozen=True)
class LossRow:
    """One model of the loss table: its losses by label, then their mean where there are several, in nats per token; of
    classifiers the accuracy, the mean over labels; its scores on tasks.
    """

    model: str
    losses: tuple[float, ...]
    is_merge: bool = False
    accuracy: float | None = None
    scores: tuple[float, ...] = ()

    @property
    def cells(self) -> tuple[str, ...]:
        """What the table shows of it."""
        accuracy = () if self.accuracy is None else (f"{100 * self.accuracy:.1f} %",)
        scores = ("" if math.isnan(score) else f"{100 * score:.1f} %" for score in self.scores)
        return (*(f"{loss:.3f}" for loss in self.losses), *accuracy, *scores)


def loss_table(report: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[LossRow, ...]]:
    """Column names, and the endpoints, the naive average, the merge and the ensemble; no rows without text."""
    labels = tuple(part["label"] for part in report["data"])
    if not labels:
        return (), ()
    ends, point, baselines = report["endpoints"], report["merge_point"], report["baselines"]
    models = [(f"{letter(place)}: {end['ref']}{_head(report, place)}", _of_end(end)) for place, end in enumerate(ends)]
    if report.get("base"):
        models.append((f"base: {report['base']['ref']}", baselines["base"]))
    if "naive_average" in baselines:
        models.append(("naive average", baselines["naive_average"]))
    if "method" in report:
        if report["alignment"]["method"] != "none":
            models.append(("average, aligned", baselines["average"]))
        merged = f"merge by {report['method']['name']}" if not report.get("star") else "merge, trained centre"
    else:
        merged = f"merge at t = {point['t']:g}"
    models.append((merged, point))
    whose = "of A and B" if len(ends) == 2 else f"of all {len(ends)}"
    if "ensemble" in baselines:
        models.append((f"ensemble {whose}", baselines["ensemble"]))
    several, rows = len(labels) > 1, []
    tasks = tuple(task["label"] for task in report.get("tasks", ()))
    for model, record in models:
        values = [record["losses"][label] for label in labels]
        if several:
            values.append(sum(values) / len(values))
        own = record.get("tasks") or {}
        scores = tuple(own[label]["score"] if label in own else math.nan for label in tasks)
        accuracy = record.get("accuracy")
        rows.append(LossRow(model, tuple(values), is_merge=model == merged, accuracy=accuracy, scores=scores))
    columns = (*labels, "mean") if several else labels
    columns = (*columns, "accuracy") if rows[0].accuracy is not None else columns
    return (*columns, *tasks), tuple(rows)


def _head(report: Mapping[str, Any], place: int) -> str:
    """What a model is measured with where it is not its own head."""
    owner = report.get("head")
    return "" if owner in (None, letter(place)) else f", with the head of {owner}"


def _of_end(end: Mapping[str, Any]) -> dict[str, Any]:
    """The losses of a model, the accuracy of a classifier, the mean over the texts, and scores on tasks."""
    accuracies = list(end.get("accuracies", {}).values())
    accuracy = {"accuracy": sum(accuracies) / len(accuracies)} if accuracies else {}
    return {"losses": end["loss"], **accuracy, "tasks": end.get("tasks", {})}


def unit(report: Mapping[str, Any]) -> str:
    """What losses of a report are in."""
    task = report.get("task")
    if task in CLASSIFIERS:
        return "nats per text" if task == TEXTS else "nats per labelled token"
    return "nats per hidden token" if task == MASKED else "nats per token"


def profiles(report: Mapping[str, Any]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """The profiles of a report that differ, as (kind, name, rows): the lines before and after alignment, the curve."""
    if not report["profile"]:
        return []
    if report["alignment"]["method"] == "none":
        differing = [("line", "straight line", report["line_profile"])]
    else:
        differing = [
            ("naive", "without alignment", report["naive_profile"]),
            ("line", "straight line, aligned", report["line_profile"]),
        ]
    if report["path"]["bends"]:
        differing.append(("bent", report["path"]["kind"], report["profile"]))
    return differing


def sentences(report: Mapping[str, Any]) -> tuple[str, ...]:
    """The barrier, whether alignment helped, the gain of the merge, the spectrum: sentences without full stops."""
    lines = []
    if "method" in report:
        lines += _operator(report)
    elif report["data"]:
        lines += [_barrier(report), *_probe(report.get("probe", ())), _gain(report["merge_point"])]
        lines += _widened(report["alignment"].get("widened"))
        if [part["label"] for part in report["data"]] == [WRITTEN]:
            lines.append("no text was given: it was fitted to, chosen and measured on text that the models write")
        for what, record in ("curve", report["path"]), ("learned alignment", report["alignment"].get("learning") or {}):
            if record.get("worse_elsewhere"):
                lines.append(f"the {what} lay higher on other text than what it began with, which was taken instead")
        if report["path"].get("diverged_at"):
            lines.append(
                f"training diverged at step {report['path']['diverged_at']} (the loss was NaN or Inf): the bends of "
                f"step {report['path']['best_step']} were kept; take a lower --bend-lr"
            )
        learning = report["alignment"].get("learning") or {}
        if learning.get("diverged_at"):
            lines.append(
                f"learning the alignment diverged at step {learning['diverged_at']} (the loss was NaN or Inf): that of "
                f"step {learning['best_step']} was kept"
            )
    lines += _accuracy(report)
    lines += _tasks(report)
    lines += _gain_on_tasks(report)
    lines += _gibberish(report)
    lines += _memorized(report)
    lines += _quantized(report)
    spectrum = report["spectrum"]
    if not report["data"] and not spectrum and "method" not in report:
        lines.append(f"merged at t = {report['merge_point']['t']:g}; without text, no loss was measured")
    lines += _adapter(report)
    lines += _vocabulary(report)
    lines += _transplanted(report)
    lines += _optimizers(report)
    if spectrum:
        place = "" if spectrum["position"] is None else f"position {spectrum['position']:.2f}, "
        lines.append(
            f"spectrum {spectrum['verdict']}: {VERDICTS[spectrum['verdict']]} (excess {spectrum['excess']:.3f} nats, "
            f"{place}endpoints {'at most ' * (len(report['endpoints']) > 2)}{spectrum['distance']:.3f} nats apart)"
        )
        if spectrum.get("zero"):
            count = len(spectrum["zero"])
            what = f"{count} matrices are" if count > 1 else f"the matrix {spectrum['zero'][0]} is"
            lines.append(f"{what} zero in one of the models, and left out of the spectrum's verdict")
    if report.get("path_spectrum"):
        lines.append(_along(report["path_spectrum"]))
    if report.get("refitted"):
        refit = report["refitted"]
        losses = f"select loss {refit['select_loss_without']:.3f} without, {refit['select_loss']:.3f} with it"
        did = "fitted by least squares" if refit["kept"] else "not fitted, the loss would rise"
        lines.append(f"maps to the residual stream {did}: {losses}")
    if report.get("restored_spectrum"):
        restored = report["restored_spectrum"]
        losses = f"select loss {restored['select_loss_without']:.3f} without, {restored['select_loss']:.3f} with it"
        lines.append(f"spectrum {'restored' if restored['kept'] else 'not restored, the loss would rise'}: {losses}")
    return tuple(lines)


def _operator(report: Mapping[str, Any]) -> list[str]:
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
    return [*lines, _gain(point, "best model" if count > 2 else "better endpoint")]


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
        listed = ", ".join(f"{one['stage']} by {one['name']} of {_listed(one['merged'])}" for one in stages)
        lines.append(f"merged in stages: {listed}; last, {method['name']} of {_listed(method['merged'])}")
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


def _barrier(report: Mapping[str, Any]) -> str:
    method, requested = report["alignment"]["method"], report["alignment"]["asked"]
    before, after = report["barrier_before_alignment"], report["barrier"]
    path = report["path"]
    if path["bends"]:
        bends = f"{path['bends']} bend{'s' * (path['bends'] > 1)}"
        aligned = f"after {method} alignment" if method != "none" else "without alignment"
        sentence = (
            f"barrier {after:.3f} nats on a {path['kind']} of {bends} ({path['optimizer']}, {path['steps']} steps) "
            f"{aligned}; {report['line_barrier']:.3f} on the straight line"
        )
        return sentence if method == "none" else f"{sentence}, {before:.3f} before alignment{_share(after, before)}"
    if method == "none":
        reason = "no alignment"
        if requested != "none":
            tried = len(report["alignment"].get("tried", ())) > 1
            reason = "alignment did not lower it, so none was used" if tried else "within the noise without alignment"
        return f"barrier {after:.3f} nats ({reason})"
    if after < before:
        return f"barrier {after:.3f} nats after {method} alignment, {before:.3f} before{_share(after, before)}"
    return f"barrier {after:.3f} nats: {method} alignment did not help, it was {before:.3f} before"


def _widened(record: Mapping[str, Any] | None) -> list[str]:
    """What the merge costs more than a model of its parents' size."""
    if record is None:
        return []
    extra, wide, narrow = record["to"] - record["from"], record["to"], record["from"]
    return [
        f"the MLPs of the merge have {wide} neurons ({record['key']}), those of the models {narrow}: {extra} of every "
        f"{narrow} pairs stay twice ({record['more_parameters']:+.0%} parameters)"
    ]


def _probe(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The barrier on text of other kinds, and whether fitting lowered it there, too."""
    lines = []
    for row in rows:
        without = row["barrier_without_fitting"]
        line = f"on other text ({row['label']}) the barrier is {row['barrier']:.3f}"
        line += "" if without is None else f" (without learning {without:.3f})"
        lines.append(line if row["holds"] else f"fitted to its text: {line}")
    return lines


def _memorized(report: Mapping[str, Any]) -> list[str]:
    """Text that the models probably know by heart, and what that does to the numbers."""
    models: dict[str, list[str]] = {}
    for row in report.get("memorized", ()):
        models.setdefault(row["label"], []).append(letter(row["model"]))
    return [
        f"the text '{label}' probably trained {_listed(names)}, which know{'s' * (len(names) == 1)} it by heart: "
        "losses there are lower and barriers higher than on new text"
        for label, names in models.items()
    ]


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _vocabulary(report: Mapping[str, Any]) -> list[str]:
    """For a grown vocabulary: which losses are measured on which of its rows."""
    grown = report.get("vocabulary")
    if not grown or not grown["kept_from"] or grown["loss"] is None:
        return []
    lines = [
        f"losses are those of whole models, the merge with all {grown['rows']} rows of its vocabulary; on the "
        f"{grown['shared_rows']} rows that both models have, which paths and barriers are measured on, the merge has "
        f"{grown['shared_loss']:.3f}"
    ]
    if grown["same_text"] is False:
        lines.append(
            f"the text holds tokens that only {grown['kept_from']} has: losses are of the text cut without them"
        )
    return lines


def _gibberish(report: Mapping[str, Any]) -> list[str]:
    """Why a merge lost so much, where the check has an explanation."""
    excess, diagnosis = report["merge_point"].get("excess"), report.get("diagnosis")
    if excess is None or excess < GIBBERISH or not diagnosis:
        return []
    return [f"the merge lost {excess:.2f} nats against its parents; {diagnosis.rstrip('.')}"]


def _transplanted(report: Mapping[str, Any]) -> list[str]:
    """What models lose by another tokenizer."""
    lines = []
    for record in report.get("transplanted", ()):
        sentence = (
            f"{record['model']} took another tokenizer: {record['shared_tokens']} of its tokens it had, "
            f"{record['made_rows']} rows were made of these"
        )
        if record.get("loss_before") is not None:
            change = record["loss_after"] - record["loss_before"]
            sentence += (
                f"; its loss was {record['loss_before']:.3f} nats per byte before and is {record['loss_after']:.3f} "
                f"after ({change:+.3f} ± {record['loss_change_stderr']:.3f})"
            )
        lines.append(sentence)
    return lines


def _quantized(report: Mapping[str, Any]) -> list[str]:
    """What quantization cost the models that were dequantized."""
    return [
        f"{letter(row['model'])} was quantized, which cost it about {row['cost']:.3f} ± {row['stderr']:.3f} nats: its "
        "loss rises by so much when as much rounding is added again"
        for row in report.get("quantized", ())
    ]


def _accuracy(report: Mapping[str, Any]) -> list[str]:
    """How classifiers, and their merge, do on the examples of the report."""
    point = report["merge_point"]
    if point.get("accuracy") is None:
        return []
    gain, error = 100 * point["accuracy_gain"], 100 * point["accuracy_gain_stderr"]
    examples = sum(part["report_examples"] for part in report["data"])
    best = "better endpoint" if len(report["endpoints"]) == 2 else "best model"
    average = report["baselines"].get("naive_average")
    naive = f" ({100 * average['accuracy']:.1f} % by the naive average)" if average else ""
    return [
        f"accuracy {100 * point['accuracy']:.1f} %, {gain:+.1f} ± {error:.1f} points against the {best}"
        f"{naive}, on {examples} examples"
    ]


def _tasks(report: Mapping[str, Any]) -> list[str]:
    """What the merge scores on every task, against the best model and the naive average."""
    best = "better endpoint" if len(report["endpoints"]) == 2 else "best model"
    lines = []
    for task in report.get("tasks", ()):
        own = report["merge_point"]["tasks"][task["label"]]
        gain, over = (f"{100 * own[key]:+.1f} ± {100 * own[f'{key}_stderr']:.1f}" for key in ("gain", "over_average"))
        lines.append(
            f"{task['label']}: {100 * own['score']:.1f} ± {100 * own['stderr']:.1f} % ({task['metric']}, "
            f"{task['report_documents']} documents), {gain} points against the {best}, {over} against the naive average"
        )
    return lines


def _gain_on_tasks(report: Mapping[str, Any]) -> list[str]:
    """What weights that were chosen by tasks bought on the documents that chose nothing."""
    lines = []
    for label, own in report["merge_point"].get("tasks", {}).items():
        if own.get("over_equal") is None or (report.get("soup") or {}).get("objective") != "task":
            continue
        gain, error = 100 * own["over_equal"], 100 * own["over_equal_stderr"]
        verb = "bought nothing" if abs(gain) < 2 * error or gain == 0 else "gained" if gain > 0 else "lost"
        lines.append(
            f"choosing weights by tasks {verb} on documents of '{label}' that it did not see: {gain:+.1f} ± "
            f"{error:.1f} points against equal ones"
        )
    return lines


def _adapter(report: Mapping[str, Any]) -> list[str]:
    """What a merge that is saved as an adapter keeps of its difference from the base."""
    adapter = report.get("adapter")
    if not adapter:
        return []
    ranks = list(adapter["ranks"].values())
    if not ranks:
        return [f"saved as an adapter of {adapter['base']['ref']}"]
    rank = f"{min(ranks)}" if min(ranks) == max(ranks) else f"{min(ranks)} to {max(ranks)}"
    share = 100 * adapter["numbers"] / adapter["of"]
    return [
        f"saved as an adapter of {adapter['base']['ref']}, of rank {rank}: it keeps {100 * adapter['energy']:.4g} % of "
        f"the squared norm of what differs, in {adapter['numbers']:,} numbers ({share:.1f} % of the model's)"
    ]


def _optimizers(report: Mapping[str, Any]) -> list[str]:
    ends, kind = report["endpoints"], report["optimizers"]["relation"]
    if kind == "unknown":
        return []
    whys = [f"{letter(place)} {end['optimizer']} ({end['optimizer_evidence']})" for place, end in enumerate(ends)]
    return [f"a {kind} merge: {', '.join(whys)}"]


def _along(spectrum: Mapping[str, Any]) -> str:
    highest = max(point["excess"] for point in spectrum["points"])
    if spectrum["verdict"] == "broken":
        places = ", ".join(f"{t:g}" for t in spectrum["broken_at"])
        return f"along the path the spectrum is broken at t = {places} (highest excess {highest:.3f} nats)"
    how = "preserved all along" if spectrum["verdict"] == "preserved" else "a smooth transition"
    return f"along the path the spectrum is {how} (highest excess {highest:.3f} nats)"


def _share(after: float, before: float) -> str:
    """The part of a barrier that is left, in brackets; empty where there was none."""
    if before <= 0:
        return ""
    return f" ({after / before:.0%} of it)" if after > 0.1 * before else f" ({after / before:.1%} of it)"


def _gain(point: Mapping[str, Any], best: str = "better endpoint") -> str:
    gain, error = point["gain"], point["gain_stderr"]
    least = max(2 * error, ROUNDING)
    if gain > least:
        return f"the merge is better than the {best} by {gain:.3f} ± {error:.3f} nats"
    if gain < -least:
        return f"the merge is worse than the {best} by {-gain:.3f} ± {error:.3f} nats"
    return f"the merge and the {best} are equally good within the noise ({gain:+.3f} ± {error:.3f} nats)"
