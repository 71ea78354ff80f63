"""What two tokenizers do differently: with the same text, or by their files if they cannot be built."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..tokenizer import Tokenizer
from .finding import Finding
from .tokenizer_probe import PARTS, compare_tokenizers

UNREADABLE = "nobody could open a merge with it; repair its files, or remove them"
LABELS = {"added_tokens": "flags of added tokens"}


def behaviour_findings(
    first: Tokenizer, name_a: str, second: Tokenizer, name_b: str, file: str, keeper: str
) -> list[Finding]:
    """What two tokenizers do differently. They differ in `file`; the merge has the tokenizer of `keeper`."""
    taken = f"the merge has the tokenizer of '{keeper}'"
    other_tokens = f"the same text becomes other tokens; {taken}"
    if first.built is None or second.built is None:
        findings = []
        for tokenizer, name in ((first, name_a), (second, name_b)):
            if tokenizer.built is None:
                what = f"transformers cannot build the tokenizer of '{name}' from its files"
                if name == keeper:
                    findings.append(Finding("blocks", what, UNREADABLE, file))
                    continue
                findings.append(Finding("notes", what, f"they are compared as they are written; {taken}", file))
        written = _written_differences(first, name_a, second, name_b)
        return [*findings, *(Finding("degrades", what, other_tokens, file) for what in written)]
    findings = []
    difference = compare_tokenizers(first, second)
    if difference.tokens is not None:
        for what in _parts(difference.parts, name_a, name_b):
            findings.append(Finding("degrades", what, other_tokens, file))
        if not difference.parts:
            shown = json.dumps(difference.tokens, ensure_ascii=False)
            what = f"'{name_a}' and '{name_b}' make other tokens of the same text, for instance of {shown}"
            findings.append(Finding("degrades", what, taken, file))
    elif difference.parts:
        what = f"{_parts(difference.parts, name_a, name_b)[0]}, without effect on {difference.probes} short texts"
        findings.append(Finding("notes", what, taken, file))
    if difference.text is not None:
        shown = json.dumps(difference.text, ensure_ascii=False)
        what = f"'{name_a}' and '{name_b}' make other text of the same tokens, for instance of those of {shown}"
        findings.append(Finding("degrades", what, taken, file))
    return findings


def _written_differences(first: Tokenizer, name_a: str, second: Tokenizer, name_b: str) -> list[str]:
    """The differences between the files of two tokenizers, one sentence each."""
    parts = []
    if first.pipeline and second.pipeline:
        parts = [part for part in first.pipeline if _contradict(first.pipeline[part], second.pipeline[part])]
    if first.merges != second.merges:
        parts.append("merges")
    return _parts(parts, name_a, name_b)


def _contradict(a: Any, b: Any) -> bool:
    """Whether two settings state different values; a value that only one states may be the default of the other."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return any(_contradict(a[key], b[key]) for key in a.keys() & b.keys())
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return any(map(_contradict, a, b))
    return bool(a != b)


def _parts(parts: Sequence[str], name_a: str, name_b: str) -> list[str]:
    """One sentence on the merge rules, one on all other parts that differ."""
    sentences = []
    if "merges" in parts:
        sentences.append(f"the merge rules of '{name_b}' differ from those of '{name_a}'")
    others = [part for part in (*PARTS, *parts) if part in parts and part != "merges"]
    others = [LABELS.get(part, part) for part in dict.fromkeys(others)]
    if others:
        singular = len(others) == 1 and others[0] != LABELS["added_tokens"]
        differ = "differs from that" if singular else "differ from those"
        sentences.append(f"the {' and '.join(others)} of '{name_b}' {differ} of '{name_a}'")
    return sentences
