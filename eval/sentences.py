"""A merge report in sentences without full stops, for the terminal, the page and the card alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..checkpoint.card import letter
from .corpora import WRITTEN
from .operator_sentences import gain_sentence, listed, of_operator

GIBBERISH = 1.0  # nats against the parents, from which on a merge needs an explanation
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


def sentences(report: Mapping[str, Any]) -> tuple[str, ...]:
    """The barrier, whether alignment helped, the gain of the merge, the spectrum: sentences without full stops."""
    lines = []
    if "method" in report:
        lines += of_operator(report)
    elif report["data"]:
        lines += [_barrier(report), *_probe(report.get("probe", ())), gain_sentence(report["merge_point"])]
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
        f"the text '{label}' probably trained {listed(names)}, which know{'s' * (len(names) == 1)} it by heart: "
        "losses there are lower and barriers higher than on new text"
        for label, names in models.items()
    ]


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
