"""Do two tokenizers make the same ids of the same text? From their files alone, which are not fetched when the Hub says
that they are the same.

Where the files differ, both tokenizers are built as transformers builds them, and compared id by id and on text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
from ..source import Source, same_file
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
from .finding import Finding
from .tokenizer_probe import PARTS, compare_tokenizers

# Settings that have no bearing on which tokens text becomes.
HARMLESS = frozenset(
    {
        "added_tokens_decoder",  # compared by its tokens
        "backend",
        "chat_template",
        "clean_up_tokenization_spaces",
        "device_map",
        "errors",
        "from_slow",
        "is_local",
        "local_files_only",
        "max_length",
        "model_input_names",
        "model_max_length",
        "name_or_path",
        "pad_to_multiple_of",
        "padding_side",
        "processor_class",
        "return_token_type_ids",
        "special_tokens_map_file",
        "stride",
        "tokenizer_file",
        "transformers_version",
        "truncation_side",
        "truncation_strategy",
        "use_fast",
    }
)
UNREADABLE = "the merge would have it, and nobody could open that; repair its files, or remove them"
SHOWN = 4  # keys that a sentence names, at most
LABELS = {"added_tokens": "flags of added tokens"}
GENERIC = {"PreTrainedTokenizer": "TokenizersBackend"}  # classes that add nothing to tokenizer.json, by other names


def tokenizer_findings(
    a: Source, rows_a: int, b: Source, rows_b: int, *, opened: bool = False
) -> tuple[list[Finding], Growth | None]:
    """What differs between two tokenizers, and how the vocabularies grew; `rows_a`, `rows_b` are their embeddings'.

    Where they are the same, only with `opened` it is found out whether transformers can build it.
    """
    owner = (a, b)[tokenizer_owner([a.files, b.files])]
    if not (a.has_tokenizer and b.has_tokenizer):
        return [*_without(a, rows_a, b, rows_b), *_generation_settings(a, b, owner.name)], None
    same = _same(a, b)
    if same:  # then only chat templates and the like can differ
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
        findings += _behaviour(first, a.name, second, b.name, file, keeper)
    elif opened:
        findings += _unbuildable(a if keeper == a.name else b, file)
    findings += _details(first, a.name, second, b.name, keeper)
    return [*findings, *_generation_settings(a, b, keeper)], grown


def _unbuildable(source: Source, file: str) -> list[Finding]:
    """What blocks where a tokenizer that is at hand cannot be built; one on the Hub is built when it is fetched."""
    names = files_to_build(source)
    if not all(map(source.is_local, names)) or build_tokenizer(source, {n: source.path(n) for n in names}) is not None:
        return []
    what = f"transformers cannot build the tokenizer of '{source.name}' from its files"
    return [Finding("blocks", what, UNREADABLE, file)]


def _generation_settings(a: Source, b: Source, keeper: str) -> list[Finding]:
    """How the models generate goes with the tokenizer, too."""
    first, second = (source.json(GENERATION) if GENERATION in source.files else {} for source in (a, b))
    keys = sorted(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))
    keys = [key for key in keys if key not in ("transformers_version", "_from_model_config")]
    if not keys:
        return []
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    what = f"the generation settings of '{b.name}' differ from those of '{a.name}' ({', '.join(keys[:SHOWN])}{more})"
    return [Finding("notes", what, f"the merge has those of '{keeper}', with its tokenizer", GENERATION)]


def _read(a: Source, b: Source) -> tuple[Tokenizer, Tokenizer] | None:
    """Both tokenizers, as transformers builds them where it can build both; None where they cannot be read at all."""
    names_a, names_b = files_to_build(a), files_to_build(b)
    common = {name for name in names_b if name in a.files and _known_as_same(a, b, name)}
    a.fetch(names_a)
    b.fetch(name for name in names_b if name not in common)
    first = build_tokenizer(a, {name: a.path(name) for name in names_a})
    second = build_tokenizer(b, {name: (a if name in common else b).path(name) for name in names_b})
    if first is not None and second is not None:
        return first, second
    written = read_tokenizer(a), read_tokenizer(b)  # raises, with a sentence, where one is damaged
    if written[0] is None or written[1] is None:
        return None
    return replace(written[0], built=first.built if first else None), replace(
        written[1], built=second.built if second else None
    )


def _same(a: Source, b: Source) -> bool:
    """Whether two tokenizers make the same tokens, by their files: the content is the same, and the settings agree."""
    names = {name for source in (a, b) for name in source.files if is_content_file(name)}
    if TOKENIZER in a.files and TOKENIZER in b.files:  # it is read before all others
        names &= {TOKENIZER, ADDED_TOKENS}
    if not all(name in a.files and name in b.files and same_file(a, b, name) for name in sorted(names)):
        return False
    written_a, written_b = settings(a), settings(b)
    return _mattering(a, written_a) == _mattering(b, written_b) or _same_tokens(a, written_a, b, written_b)


def _mattering(source: Source, written: Mapping[str, Any]) -> dict[str, Any]:
    """What settings say of how text becomes tokens, in one form."""
    stated = {key: _plain(value) for key, value in written.items() if key not in HARMLESS}
    own = written.get("tokenizer_class") or source.json(CONFIGURATION).get("tokenizer_class") or ""
    stated["tokenizer_class"] = GENERIC.get(str(own).removesuffix("Fast"), str(own).removesuffix("Fast"))
    stated[DECODER] = sorted(_decoder(written))
    return stated


def _plain(value: Any) -> Any:
    """A token as text, however it is written."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    text = token_text(value)
    return value if text is None else text


def _decoder(written: Mapping[str, Any]) -> set[str]:
    tokens = written.get(DECODER)
    return {json.dumps(token, sort_keys=True) for token in tokens.values()} if isinstance(tokens, Mapping) else set()


def _same_tokens(a: Source, written_a: Mapping[str, Any], b: Source, written_b: Mapping[str, Any]) -> bool:
    """Whether settings differ only in the roles of tokens that both name as added ones."""
    if any(key in written for key in ("add_bos_token", "add_eos_token") for written in (written_a, written_b)):
        return False
    if not _decoder(written_a) or _decoder(written_a) != _decoder(written_b):
        return False
    listed = set(named_tokens({DECODER: written_a[DECODER]}))
    if not listed.issuperset((*named_tokens(written_a), *named_tokens(written_b))):
        return False
    rest_a, rest_b = (
        {key: value for key, value in _mattering(source, written).items() if key not in (*ROLES, *EXTRA)}
        for source, written in ((a, written_a), (b, written_b))
    )
    return rest_a == rest_b


def _known_as_same(a: Source, b: Source, filename: str) -> bool:
    """Whether the Hub says that a file is the same in two models."""
    digest = a.files[filename].digest
    return digest is not None and digest == b.files[filename].digest


def _unreadable(a: Source, rows_a: int, b: Source, rows_b: int) -> list[Finding]:
    """Findings for tokenizers of different files that neither transformers nor we can read."""
    findings = _sizes(a, rows_a, b, rows_b)
    names = sorted({name for source in (a, b) for name in source.files if name in VOCABULARIES})
    missing = "install sentencepiece, so that" if any(name in SENTENCE_PIECES for name in names) else "find out whether"
    what = f"the tokenizers of '{a.name}' and '{b.name}' ({', '.join(names)}) differ and cannot be read here"
    return [*findings, Finding("degrades", what, f"{missing} their tokens can be compared", names[0])]


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
    advice = "without both tokenizers nobody can tell which rows they share; add the tokenizer files"
    return [Finding("blocks", what, advice, "config.json")]


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


def _details(first: Tokenizer, name_a: str, second: Tokenizer, name_b: str, keeper: str) -> list[Finding]:
    taken = f"the merge has the tokenizer of '{keeper}'"
    findings = []
    both = [role for role in ROLES if role in first.special and role in second.special]
    for role in both:
        mine, other = first.special[role], second.special[role]
        if mine != other:
            what = f"the {role} is {json.dumps(mine)} in '{name_a}' and {json.dumps(other)} in '{name_b}'"
            findings.append(Finding("degrades", what, taken, TOKENIZER_SETTINGS))
    for name in sorted(first.templates.keys() | second.templates.keys()):
        mine, other = first.templates.get(name), second.templates.get(name)
        if mine == other:
            continue
        which = "chat template" if name == "default" else f"chat template {json.dumps(name)}"
        what = f"the {which} of '{name_b}' differs from that of '{name_a}'"
        if mine is None or other is None:
            what = f"only '{name_a if other is None else name_b}' has a {which}"
        findings.append(Finding("degrades", what, taken, TOKENIZER_SETTINGS))
    return findings


def _behaviour(first: Tokenizer, name_a: str, second: Tokenizer, name_b: str, file: str, keeper: str) -> list[Finding]:
    """What two tokenizers do differently with the same text."""
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
    """The same from the files as they are written, where the tokenizers cannot be built."""
    parts = []
    if first.pipeline and second.pipeline:
        parts = [part for part in first.pipeline if _contradict(first.pipeline[part], second.pipeline[part])]
    if first.merges != second.merges:
        parts.append("merges")
    return _parts(parts, name_a, name_b)


def _contradict(mine: Any, other: Any) -> bool:
    """Whether two settings state different things; what only one of them states may be the other's default."""
    if isinstance(mine, Mapping) and isinstance(other, Mapping):
        return any(_contradict(mine[key], other[key]) for key in mine.keys() & other.keys())
    if isinstance(mine, list) and isinstance(other, list) and len(mine) == len(other):
        return any(map(_contradict, mine, other))
    return bool(mine != other)


def _parts(parts: Sequence[str], name_a: str, name_b: str) -> list[str]:
    """One sentence for the merge rules, one for all other parts that differ."""
    sentences = []
    if "merges" in parts:
        sentences.append(f"the merge rules of '{name_b}' differ from those of '{name_a}'")
    others = [part for part in (*PARTS, *parts) if part in parts and part != "merges"]
    others = [LABELS.get(part, part) for part in dict.fromkeys(others)]
    if others:
        ending = "s" * (len(others) == 1 and others[0] != LABELS["added_tokens"])
        sentences.append(f"the {' and '.join(others)} of '{name_b}' differ{ending} from those of '{name_a}'")
    return sentences
