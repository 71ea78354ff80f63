"""Do two tokenizers make the same ids of the same text? From their files alone, which are not fetched when the Hub says
that they are the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from isthmus.checkpoint.bounds import require_pipeline
from isthmus.checkpoint.checks.finding import Finding
from isthmus.checkpoint.errors import CorruptCheckpoint
from isthmus.checkpoint.source import Source, same_file
from isthmus.checkpoint.vocabulary import Conflict, Growth, Vocabulary, compare_vocabularies

CONTENT_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json")
SETTING_FILES = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class Tokenizer:
    """What its files say: token → id, merges, the pipeline before them, special tokens by role, the chat template.

    None stands for what the files leave to transformers.
    """

    tokens: Mapping[str, int]
    merges: tuple[str, ...]
    pipeline: Mapping[str, Any] | None
    special: Mapping[str, str | None] = field(default_factory=dict)
    chat_template: str | None = None


def read_tokenizer(source: Source) -> Tokenizer:
    """A tokenizer from its files. Raises CorruptCheckpoint when they are damaged."""
    special, chat = _settings(source)
    try:
        if "tokenizer.json" in source.files:
            content = source.json("tokenizer.json")
            require_pipeline(content, f"'tokenizer.json' of '{source.name}'")
            tokens, merges, pipeline = _fast(content)
            return Tokenizer(tokens, merges, pipeline, special, chat)
        tokens = _numbered(source.json("vocab.json"))
        if "added_tokens.json" in source.files:
            tokens |= _numbered(source.json("added_tokens.json"))
        lines = source.text("merges.txt").splitlines() if "merges.txt" in source.files else []
        merges = tuple(line for line in lines if line and not line.startswith("#version"))
        return Tokenizer(tokens, merges, None, special, chat)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise CorruptCheckpoint(f"the tokenizer of '{source.name}' is damaged: fetch its files again") from None


def _fast(content: Mapping[str, Any]) -> tuple[dict[str, int], tuple[str, ...], dict[str, Any]]:
    model = content["model"]
    raw = model["vocab"]
    tokens = _numbered(raw if isinstance(raw, dict) else {entry[0]: index for index, entry in enumerate(raw)})
    tokens |= _numbered({entry["content"]: entry["id"] for entry in content.get("added_tokens", [])})
    merges = tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges", []))
    pipeline = {part: content.get(part) for part in ("normalizer", "pre_tokenizer")}
    return tokens, merges, pipeline | {"model": model.get("type", "BPE")}


def _numbered(tokens: Mapping[str, Any]) -> dict[str, int]:
    if not all(type(token) is str and type(index) is int and index >= 0 for token, index in tokens.items()):
        raise ValueError("a token is not text, or its id is not a number")
    return dict(tokens)


def _settings(source: Source) -> tuple[dict[str, str | None], str | None]:
    written: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if name in source.files:
            written |= source.json(name)
    special = {role: _content(written[role]) for role in ROLES if role in written}
    if "chat_template.jinja" in source.files:
        return special, source.text("chat_template.jinja", "replace")
    chat = written.get("chat_template")
    return special, chat if chat is None or isinstance(chat, str) else json.dumps(chat, sort_keys=True)


def _content(token: Any) -> str | None:
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def tokenizer_findings(a: Source, rows_a: int, b: Source, rows_b: int) -> tuple[list[Finding], Growth | None]:
    """What differs between two tokenizers, and how the vocabularies grew; `rows_a`, `rows_b` are their embeddings'."""
    if not (a.has_tokenizer and b.has_tokenizer):
        return _without(a, rows_a, b, rows_b), None
    if _same(a, b):  # then only their settings can differ
        first, second = (Tokenizer({}, (), None, *_settings(source)) for source in (a, b))
    else:
        first, second = read_tokenizer(a), read_tokenizer(b)
    found = compare_vocabularies(Vocabulary(first.tokens, rows_a), Vocabulary(second.tokens, rows_b))
    file = "tokenizer.json" if "tokenizer.json" in b.files else "vocab.json"
    if isinstance(found, Conflict):
        what = (
            f"the tokenizers of '{a.name}' and '{b.name}' differ in {found.count} tokens, for instance {found.example}"
        )
        advice = "the rows of the embeddings would not mean the same; merge models of one tokenizer"
        return [Finding("blocks", what, advice, file)], None
    findings = [_growth(found, a.name, b.name, file)] if found else []
    keeper = b.name if found and found.owner else a.name
    return findings + _details(first, a.name, second, b.name, file, keeper), found


def _same(a: Source, b: Source) -> bool:
    names = [name for name in CONTENT_FILES if name in a.files or name in b.files]
    return all(name in a.files and name in b.files and same_file(a, b, name) for name in names)


def _without(a: Source, rows_a: int, b: Source, rows_b: int) -> list[Finding]:
    findings = []
    if rows_a != rows_b:
        what = f"the vocabulary size differs: {rows_a} in '{a.name}', {rows_b} in '{b.name}'"
        advice = "without both tokenizers nobody can tell which rows they share; add the tokenizer files"
        findings.append(Finding("blocks", what, advice, "config.json"))
    if not a.has_tokenizer and not b.has_tokenizer:
        what = f"neither '{a.name}' nor '{b.name}' has a tokenizer"
        return [*findings, Finding("notes", what, "losses cannot be measured", "tokenizer.json")]
    bare, other = (b, a) if a.has_tokenizer else (a, b)
    what = f"'{bare.name}' has no tokenizer, so its token ids cannot be compared"
    return [
        *findings,
        Finding("degrades", what, f"the tokenizer of '{other.name}' is taken for both", "tokenizer.json"),
    ]


def _growth(found: Growth, name_a: str, name_b: str, file: str) -> Finding:
    owner, other = (name_b, name_a) if found.owner else (name_a, name_b)
    if not found.added:
        what = f"the embedding of '{owner}' has {found.total - found.shared} rows more, which are no tokens"
        return Finding("notes", what, f"the {found.shared} shared rows are merged, the others kept", "config.json")
    example = json.dumps(found.added[0], ensure_ascii=False)
    count = len(found.added)
    what = f"'{owner}' knows {count} token{'s' * (count > 1)} that '{other}' does not, for instance {example}"
    advice = f"the {found.shared} shared rows are merged, the others kept from '{owner}' with its tokenizer"
    return Finding("notes", what, advice, file)


def _details(first: Tokenizer, name_a: str, second: Tokenizer, name_b: str, file: str, keeper: str) -> list[Finding]:
    findings = []
    taken = f"the merge has the tokenizer of '{keeper}'"
    if first.merges != second.merges:
        what = f"the merge rules of '{name_b}' differ from those of '{name_a}'"
        findings.append(Finding("degrades", what, f"the same text becomes other tokens; {taken}", file))
    if first.pipeline and second.pipeline and first.pipeline != second.pipeline:
        parts = [part for part in first.pipeline if first.pipeline[part] != second.pipeline[part]]
        what = f"the {' and '.join(parts)} of '{name_b}' differ{'s' * (len(parts) == 1)} from those of '{name_a}'"
        findings.append(Finding("degrades", what, f"the same text becomes other tokens; {taken}", file))
    both = [role for role in ROLES if role in first.special and role in second.special]
    for role in both:
        mine, other = first.special[role], second.special[role]
        if mine != other:
            what = f"the {role} is {json.dumps(mine)} in '{name_a}' and {json.dumps(other)} in '{name_b}'"
            findings.append(Finding("degrades", what, taken, SETTING_FILES[0]))
    if first.chat_template != second.chat_template:
        what = f"the chat template of '{name_b}' differs from that of '{name_a}'"
        if first.chat_template is None or second.chat_template is None:
            what = f"only '{name_a if second.chat_template is None else name_b}' has a chat template"
        findings.append(Finding("degrades", what, taken, SETTING_FILES[0]))
    return findings
