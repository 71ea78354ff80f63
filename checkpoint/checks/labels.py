"""Do two classifiers tell the same labels apart?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..labels import are_unnamed, labels_of, rows_by_name
from ..task import TEXTS, classifier_task
from ..untrusted_text import plain
from .finding import Finding

FILE = "config.json"
SHOWN = 4
SINGLE = "single_label_classification"
_WHAT = {True: "classifies texts", False: "classifies the tokens of a text"}


def classifier_finding(name: str, facts: Mapping[str, Any]) -> Finding | None:
    """What is said of a classifier; None for a language model. Raises as `labels_of` does."""
    task = classifier_task(facts["model_type"], facts.get("architectures"))
    if task is None:
        return None
    labels = labels_of(facts, name)
    if len(labels) == 1:
        what = f"'{name}' gives one number for {'a text' if task == TEXTS else 'every token'}, as reward models do"
        return Finding("notes", what, "no accuracy is measured of it: merge it without --data", FILE)
    what = f"'{name}' {_WHAT[task == TEXTS]}, by {len(labels)} labels: {_listed(labels)}"
    return Finding("notes", what, "its loss and its accuracy are those on labelled examples (--data x.jsonl)", FILE)


def label_findings(
    name_a: str, facts_a: Mapping[str, Any], name_b: str, facts_b: Mapping[str, Any], *, head: bool
) -> list[Finding]:
    """What differs between the labels of two models; with `head`, all take that of the first.

    Raises as `labels_of` does.
    """
    tasks = [classifier_task(facts["model_type"], facts.get("architectures")) for facts in (facts_a, facts_b)]
    if tasks[0] != tasks[1]:
        names = [f"'{name}' {_described(task)}" for name, task in zip((name_a, name_b), tasks, strict=True)]
        advice = "merge models that do the same"
        return [Finding("blocks", ", ".join(names), advice, FILE)]
    if tasks[0] is None:
        return []
    a, b = labels_of(facts_a, name_a), labels_of(facts_b, name_b)
    rows = rows_by_name(a, b)
    problems = [facts.get("problem_type") or SINGLE for facts in (facts_a, facts_b)]
    if problems[0] != problems[1] and len(a) > 1:
        what = f"'{name_a}' was trained for {plain(problems[0], 40)}, '{name_b}' for {plain(problems[1], 40)}"
        return [Finding("blocks", what, "merge models that do the same (problem_type)", FILE)]
    findings = _padding_findings(name_a, facts_a, name_b, facts_b) if tasks[0] == TEXTS else []
    if head:
        if rows == list(range(len(a))) and a == b:
            return findings
        advice = f"all models take the head of '{name_a}', and the others' are left out (--head)"
        return [*findings, Finding("notes", _differing(name_a, a, name_b, b), advice, FILE)]
    if rows is None:
        advice = "keep the head of one, and merge the rest: --head A, with A's letter or that of another"
        return [Finding("blocks", _differing(name_a, a, name_b, b), advice, FILE)]
    if rows != list(range(len(a))):
        what = f"'{name_a}' and '{name_b}' have the same labels, numbered differently: {_listed(a)} and {_listed(b)}"
        return [*findings, Finding("notes", what, f"they are merged by name, in the order of '{name_a}'", FILE)]
    if are_unnamed(a) != are_unnamed(b):
        unnamed, other = (name_a, name_b) if are_unnamed(a) else (name_b, name_a)
        what = f"the labels of '{unnamed}' have no names (id2label), those of '{other}' have"
        advice = "they are taken to be in the same order: if they are not, name them in its config.json"
        return [*findings, Finding("degrades", what, advice, FILE)]
    return findings


def _padding_findings(
    name_a: str, facts_a: Mapping[str, Any], name_b: str, facts_b: Mapping[str, Any]
) -> list[Finding]:
    """A finding if two classifiers of texts pad with other tokens: they look at the last that is none of these."""
    ids = facts_a.get("pad_token_id"), facts_b.get("pad_token_id")
    if ids[0] == ids[1]:
        return []
    what = f"the id of padding differs: {ids[0]} in '{name_a}', {ids[1]} in '{name_b}'"
    return [Finding("notes", what, "the merge has that of the first model, and no text should end in it", FILE)]


def _described(task: str | None) -> str:
    return "is a language model" if task is None else _WHAT[task == TEXTS]


def _differing(name_a: str, a: Sequence[str], name_b: str, b: Sequence[str]) -> str:
    if set(a) == set(b):
        return f"'{name_a}' and '{name_b}' have the same labels, numbered differently: {_listed(a)} and {_listed(b)}"
    only = [[label for label in own if label not in other] for own, other in ((a, b), (b, a))]
    named = zip((name_a, name_b), (a, b), only, strict=True)
    parts = []
    for name, own, alone in named:
        which = f", of which only there {_listed(alone)}" if alone else ""
        parts.append(f"{len(own)} in '{name}'{which}")
    return f"the labels differ: {'; '.join(parts)}"


def _listed(labels: Sequence[str]) -> str:
    shown = ", ".join(plain(name, 40) for name in labels[:SHOWN])
    return shown + (f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else "")
