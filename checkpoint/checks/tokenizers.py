"""Do two tokenizers make the same ids of the same text?

First their files are compared. If those differ, transformers builds both tokenizers, and they are compared id by id and
on text.
"""

from __future__ import annotations

import json
from dataclasses import replace

from ..small_files import (
    GENERATION,
    SENTENCE_PIECES,
    TOKENIZER,
    TOKENIZER_SETTINGS,
    VOCABULARIES,
    tokenizer_owner,
)
from ..source import Source, listed_as_equal
from ..tokenizer import (
    ROLES,
    Tokenizer,
    build_tokenizer,
    chat_templates,
    files_to_build,
    read_tokenizer,
    special_tokens,
)
from ..vocabulary import Conflict, Growth, Vocabulary, compare_vocabularies
from .finding import Finding
from .tokenizer_behaviour import UNREADABLE, behaviour_findings
from .tokenizer_files import equal_files

SHOWN = 4  # keys that a sentence names, at most


def tokenizer_findings(
    a: Source, rows_a: int, b: Source, rows_b: int, *, opened: bool = False
) -> tuple[list[Finding], Growth | None]:
    """What differs between two tokenizers, and how one vocabulary grew, if one did.

    `rows_a` and `rows_b` are the rows of the embeddings. If the files are equal, transformers builds a tokenizer only
    with `opened`, to see whether it can.
    """
    owner = (a, b)[tokenizer_owner([a.files, b.files])]
    if not (a.has_tokenizer and b.has_tokenizer):
        return [*_without(a, rows_a, b, rows_b), *_generation_settings(a, b, owner.name)], None
    same = equal_files(a, b)
    if same:  # only chat templates and the like can differ
        first, second = (
            Tokenizer({}, special=special_tokens(source), templates=chat_templates(source)) for source in (a, b)
        )
    else:
        pair = _read(a, b)
        if pair is None:
            return [*_unreadable(a, rows_a, b, rows_b), *_generation_settings(a, b, owner.name)], None
        first, second = pair
    # A token without a row has never been trained, and no row is merged for it.
    with_rows = [
        Vocabulary({token: index for token, index in tokenizer.tokens.items() if index < rows}, rows)
        for tokenizer, rows in ((first, rows_a), (second, rows_b))
    ]
    grown = compare_vocabularies(*with_rows)
    file = TOKENIZER if TOKENIZER in b.files else next(name for name in VOCABULARIES if name in b.files)
    if isinstance(grown, Conflict):
        what = (
            f"the tokenizers of '{a.name}' and '{b.name}' differ in {grown.count} tokens, for instance {grown.example}"
        )
        advice = "the rows of the embeddings would not mean the same; merge models of one tokenizer"
        return [Finding("blocks", what, advice, file)], None
    findings = [_growth(grown, a.name, b.name, file)] if grown else []
    keeper = (a, b)[grown.owner].name if grown else owner.name
    if not same:
        findings += behaviour_findings(first, a.name, second, b.name, file, keeper)
    elif opened:
        findings += _unbuildable(a if keeper == a.name else b, file)
    findings += _details(first, a.name, second, b.name, keeper)
    return [*findings, *_generation_settings(a, b, keeper)], grown


def _unbuildable(source: Source, file: str) -> list[Finding]:
    """Blocks if a local tokenizer cannot be built; one on the Hub is built once it has been downloaded."""
    names = files_to_build(source)
    if not all(map(source.is_local, names)) or build_tokenizer(source, {n: source.path(n) for n in names}) is not None:
        return []
    what = f"transformers cannot build the tokenizer of '{source.name}' from its files"
    return [Finding("blocks", what, UNREADABLE, file)]


def _generation_settings(a: Source, b: Source, keeper: str) -> list[Finding]:
    """Generation settings that differ; a merge takes them from the model whose tokenizer it has."""
    first, second = (source.json(GENERATION) if GENERATION in source.files else {} for source in (a, b))
    keys = sorted(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))
    keys = [key for key in keys if key not in ("transformers_version", "_from_model_config")]
    if not keys:
        return []
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    what = f"the generation settings of '{b.name}' differ from those of '{a.name}' ({', '.join(keys[:SHOWN])}{more})"
    return [Finding("notes", what, f"the merge has those of '{keeper}', with its tokenizer", GENERATION)]


def _read(a: Source, b: Source) -> tuple[Tokenizer, Tokenizer] | None:
    """Both tokenizers: as transformers builds them if it can build both, else from the files; None if neither works."""
    names_a, names_b = files_to_build(a), files_to_build(b)
    common = {name for name in names_b if name in a.files and listed_as_equal(a, b, name)}
    a.fetch(names_a)
    b.fetch(name for name in names_b if name not in common)
    first = build_tokenizer(a, {name: a.path(name) for name in names_a})
    second = build_tokenizer(b, {name: (a if name in common else b).path(name) for name in names_b})
    if first is not None and second is not None:
        return first, second
    written_a, written_b = read_tokenizer(a), read_tokenizer(b)  # raises CorruptCheckpoint if one is damaged
    if written_a is None or written_b is None:
        return None
    built_a, built_b = (None if built is None else built.built for built in (first, second))
    return replace(written_a, built=built_a), replace(written_b, built=built_b)


def _unreadable(a: Source, rows_a: int, b: Source, rows_b: int) -> list[Finding]:
    """Findings for tokenizers whose files differ, and that neither transformers nor isthmus can read."""
    findings = _sizes(a, rows_a, b, rows_b)
    names = sorted({name for source in (a, b) for name in source.files if name in VOCABULARIES})
    sentencepiece = any(name in SENTENCE_PIECES for name in names)
    advice = f"{'install sentencepiece so that' if sentencepiece else 'check whether'} their tokens can be compared"
    what = f"the tokenizers of '{a.name}' and '{b.name}' ({', '.join(names)}) differ and cannot be read here"
    return [*findings, Finding("degrades", what, advice, names[0])]


def _without(a: Source, rows_a: int, b: Source, rows_b: int) -> list[Finding]:
    findings = _sizes(a, rows_a, b, rows_b)
    if not a.has_tokenizer and not b.has_tokenizer:
        what = f"neither '{a.name}' nor '{b.name}' has a tokenizer"
        return [*findings, Finding("notes", what, "losses cannot be measured", "tokenizer.json")]
    bare, other = (b, a) if a.has_tokenizer else (a, b)
    what = f"'{bare.name}' has no tokenizer, so its token ids cannot be compared"
    return [
        *findings,
        Finding("degrades", what, f"the tokenizer of '{other.name}' is taken for both", "tokenizer.json"),
    ]


def _sizes(a: Source, rows_a: int, b: Source, rows_b: int) -> list[Finding]:
    if rows_a == rows_b:
        return []
    what = f"the vocabulary size differs: {rows_a} in '{a.name}', {rows_b} in '{b.name}'"
    advice = "only the tokenizers tell which rows they share; add the tokenizer files to both"
    return [Finding("blocks", what, advice, "config.json")]


def _growth(growth: Growth, name_a: str, name_b: str, file: str) -> Finding:
    owner, other = (name_b, name_a) if growth.owner else (name_a, name_b)
    if not growth.added:
        what = f"the embedding of '{owner}' has {growth.total - growth.shared} more rows, which belong to no token"
        advice = f"the {growth.shared} shared rows are merged, the others come from '{owner}'"
        return Finding("notes", what, advice, "config.json")
    example = json.dumps(growth.added[0], ensure_ascii=False)
    count = len(growth.added)
    what = f"'{owner}' knows {count} token{'s' * (count > 1)} that '{other}' does not, for instance {example}"
    advice = f"the {growth.shared} shared rows are merged, the others come from '{owner}', with its tokenizer"
    return Finding("notes", what, advice, file)


def _details(first: Tokenizer, name_a: str, second: Tokenizer, name_b: str, keeper: str) -> list[Finding]:
    taken = f"the merge has the tokenizer of '{keeper}'"
    findings = []
    both = [role for role in ROLES if role in first.special and role in second.special]
    for role in both:
        token_a, token_b = first.special[role], second.special[role]
        if token_a != token_b:
            what = f"the {role} is {json.dumps(token_a)} in '{name_a}' and {json.dumps(token_b)} in '{name_b}'"
            findings.append(Finding("degrades", what, taken, TOKENIZER_SETTINGS))
    for name in sorted(first.templates.keys() | second.templates.keys()):
        template_a, template_b = first.templates.get(name), second.templates.get(name)
        if template_a == template_b:
            continue
        which = "chat template" if name == "default" else f"chat template {json.dumps(name)}"
        what = f"the {which} of '{name_b}' differs from that of '{name_a}'"
        if template_a is None or template_b is None:
            what = f"only '{name_a if template_b is None else name_b}' has a {which}"
        findings.append(Finding("degrades", what, taken, TOKENIZER_SETTINGS))
    return findings
