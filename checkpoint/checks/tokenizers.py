"""Do two tokenizers make the same ids of the same text?

First their files are compared; what the Hub lists as equal is not downloaded. If those differ, transformers builds both
tokenizers, and they are compared id by id and on text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..small_files import (
    ADDED_TOKENS,
    CONFIGURATION,
    GENERATION,
    SENTENCE_PIECES,
    TOKENIZER,
    TOKENIZER_SETTINGS,
    VOCABULARIES,
    is_content_file,
    tokenizer_owner,
)
from ..source import Source, listed_as_equal, same_file
from ..tokenizer import (
    DECODER,
    EXTRA,
    ROLES,
    Tokenizer,
    build_tokenizer,
    chat_templates,
    files_to_build,
    named_tokens,
    read_tokenizer,
    settings,
    special_tokens,
    token_text,
)
from ..vocabulary import Conflict, Growth, Vocabulary, compare_vocabularies
from .finding import Cause, Finding
from .tokenizer_behaviour import UNREADABLE, behaviour_findings

SHOWN = 4  # keys that a sentence names, at most
# Settings that do not change which tokens a text becomes.
HARMLESS = frozenset({
    "added_tokens_decoder",  # compared by its tokens
    "backend", "chat_template", "clean_up_tokenization_spaces", "device_map", "errors", "from_slow", "is_local",
    "local_files_only", "max_length", "model_input_names", "model_max_length", "name_or_path", "pad_to_multiple_of",
    "padding_side", "processor_class", "return_token_type_ids", "special_tokens_map_file", "stride", "tokenizer_file",
    "transformers_version", "truncation_side", "truncation_strategy", "use_fast",
})  # fmt: skip
GENERIC = {"PreTrainedTokenizer": "TokenizersBackend"}  # two names of the class that adds nothing to tokenizer.json


def tokenizer_findings(
    a: Source, rows_a: int, b: Source, rows_b: int, *, opened: bool = False
) -> tuple[list[Finding], Growth | None]:
    """What differs between two tokenizers, and how one vocabulary grew, if one did.

    `rows_a` and `rows_b` are the rows of the embeddings. If the files are equal, transformers builds a tokenizer only
    with `opened`, to see whether it can.
    """
    owner = (a, b)[tokenizer_owner([a.files, b.files])]
    sizes = [] if rows_a == rows_b else [_sizes(a.name, rows_a, b.name, rows_b)]
    if not (a.has_tokenizer and b.has_tokenizer):
        return [*sizes, _without(a, b), *_generation_settings(a, b, owner.name)], None
    same = _equal_files(a, b)
    if same:  # only chat templates and the like can differ
        first, second = (
            Tokenizer({}, special=special_tokens(source), templates=chat_templates(source)) for source in (a, b)
        )
    else:
        pair = _read(a, b)
        if pair is None:
            return [*sizes, _unreadable(a, b), *_generation_settings(a, b, owner.name)], None
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
        advice = "their rows do not mean the same; where only added tokens differ, merge with --vocabulary union"
        return [Finding("blocks", what, advice, file, "tokens")], None
    findings = [_growth(grown, a.name, b.name, file)] if grown else []
    keeper = (a, b)[grown.owner].name if grown else owner.name
    if not same:
        findings += behaviour_findings(first, a.name, second, b.name, file, keeper)
    elif opened:
        findings += _unbuildable(a if keeper == a.name else b, file)
    findings += detail_findings(first, a.name, second, b.name, keeper)
    return [*findings, *_generation_settings(a, b, keeper)], grown


def _equal_files(a: Source, b: Source) -> bool:
    """Whether the files of two tokenizers say that they make the same tokens: equal content, settings that agree."""
    names = {name for source in (a, b) for name in source.files if is_content_file(name)}
    if TOKENIZER in a.files and TOKENIZER in b.files:  # transformers reads it, and no other vocabulary
        names &= {TOKENIZER, ADDED_TOKENS}
    if not all(name in a.files and name in b.files and same_file(a, b, name) for name in sorted(names)):
        return False
    written_a, written_b = settings(a), settings(b)
    return _relevant(a, written_a) == _relevant(b, written_b) or _same_tokens(a, written_a, b, written_b)


def _relevant(source: Source, written: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that change which tokens a text becomes, in one form."""
    stated = {key: _plain(value) for key, value in written.items() if key not in HARMLESS}
    stored = written.get("tokenizer_class") or source.json(CONFIGURATION).get("tokenizer_class") or ""
    name = str(stored).removesuffix("Fast")
    stated["tokenizer_class"] = GENERIC.get(name, name)
    stated[DECODER] = sorted(_decoder(written))
    return stated


def _plain(value: Any) -> Any:
    """Tokens in a setting as text, whether they were written as text or with flags."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    text = token_text(value)
    return value if text is None else text


def _decoder(written: Mapping[str, Any]) -> set[str]:
    tokens = written.get(DECODER)
    return {json.dumps(token, sort_keys=True) for token in tokens.values()} if isinstance(tokens, Mapping) else set()


def _same_tokens(a: Source, written_a: Mapping[str, Any], b: Source, written_b: Mapping[str, Any]) -> bool:
    """Whether settings differ only in the roles of tokens that both list as added."""
    if any(key in written for key in ("add_bos_token", "add_eos_token") for written in (written_a, written_b)):
        return False
    if not _decoder(written_a) or _decoder(written_a) != _decoder(written_b):
        return False
    listed = set(named_tokens({DECODER: written_a[DECODER]}))
    if not listed.issuperset((*named_tokens(written_a), *named_tokens(written_b))):
        return False
    rest_a, rest_b = (
        {key: value for key, value in _relevant(source, written).items() if key not in (*ROLES, *EXTRA)}
        for source, written in ((a, written_a), (b, written_b))
    )
    return rest_a == rest_b


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


def _unreadable(a: Source, b: Source) -> Finding:
    """A finding for tokenizers whose files differ, and that neither transformers nor isthmus can read."""
    names = sorted({name for source in (a, b) for name in source.files if name in VOCABULARIES})
    sentencepiece = any(name in SENTENCE_PIECES for name in names)
    advice = f"{'install sentencepiece so that' if sentencepiece else 'check whether'} their tokens can be compared"
    what = f"the tokenizers of '{a.name}' and '{b.name}' ({', '.join(names)}) differ and cannot be read here"
    return Finding("degrades", what, advice, names[0])


def _without(a: Source, b: Source) -> Finding:
    if not a.has_tokenizer and not b.has_tokenizer:
        what = f"neither '{a.name}' nor '{b.name}' has a tokenizer"
        return Finding("notes", what, "losses cannot be measured", TOKENIZER)
    bare, other = (b, a) if a.has_tokenizer else (a, b)
    what = f"'{bare.name}' has no tokenizer, so its token ids cannot be compared"
    return Finding("degrades", what, f"the tokenizer of '{other.name}' is taken for both", TOKENIZER)


def _sizes(name_a: str, rows_a: int, name_b: str, rows_b: int) -> Finding:
    what = f"the vocabulary size differs: {rows_a} in '{name_a}', {rows_b} in '{name_b}'"
    advice = "only the tokenizers tell which rows they share; add the tokenizer files to both"
    return Finding("blocks", what, advice, CONFIGURATION)


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


def detail_findings(first: Tokenizer, name_a: str, second: Tokenizer, name_b: str, keeper: str) -> list[Finding]:
    """What differs in special tokens and chat templates; a merge has the tokenizer of `keeper`."""
    taken = f"the merge has the tokenizer of '{keeper}'"
    findings = []
    both = [role for role in ROLES if role in first.special and role in second.special]
    for role in both:
        token_a, token_b = first.special[role], second.special[role]
        if token_a != token_b:
            what = f"the {role} is {json.dumps(token_a)} in '{name_a}' and {json.dumps(token_b)} in '{name_b}'"
            cause: Cause | None = "end token" if role == "eos_token" else None
            findings.append(Finding("degrades", what, taken, TOKENIZER_SETTINGS, cause))
    for name in sorted(first.templates.keys() | second.templates.keys()):
        template_a, template_b = first.templates.get(name), second.templates.get(name)
        if template_a == template_b:
            continue
        which = "chat template" if name == "default" else f"chat template {json.dumps(name)}"
        what = f"the {which} of '{name_b}' differs from that of '{name_a}'"
        if template_a is None or template_b is None:
            what = f"only '{name_a if template_b is None else name_b}' has a {which}"
        findings.append(Finding("degrades", what, taken, TOKENIZER_SETTINGS, "chat template"))
    return findings
