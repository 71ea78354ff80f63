"""Problems in the small files of one model: tokens without rows, contradictions, files that a merge leaves out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..small_files import (
    CONFIGURATION,
    GENERATION,
    PROCESSOR_TEMPLATE,
    SPECIAL_TOKENS,
    TEMPLATE,
    TEMPLATE_FOLDER,
    TOKENIZER,
    TOKENIZER_SETTINGS,
    is_content_file,
    left_out,
)
from ..source import Source
from ..token_ids import token_ids
from ..tokenizer import DECODER, ROLES, read_tokenizer, settings, template_files, token_text
from .finding import Finding

_OF_EACH_FILE = frozenset({"transformers_version", "_from_model_config", "use_cache"})
SHOWN = 4  # files that a sentence names, at most


def file_findings(source: Source, facts: Mapping[str, Any], rows: int) -> list[Finding]:
    """Findings about the small files of one model; `facts` is its config.json, `rows` counts those of its embedding.

    Raises CorruptCheckpoint if one of the files is damaged.
    """
    generation = source.json(GENERATION) if GENERATION in source.files else None
    return [
        *_tokens_without_rows(source, rows),
        *_ids_without_rows(source.name, facts, generation, rows),
        *_generation(source.name, facts, generation),
        *_special_tokens(source),
        *_vocabulary(source),
        *_templates(source),
        *_left_out(source),
    ]


def _tokens_without_rows(source: Source, rows: int) -> Iterator[Finding]:
    """From the files of the tokenizer if they are local, else from the added tokens in its settings."""
    if not source.has_tokenizer:
        return
    tokens: dict[str, int] = {}
    if all(source.is_local(name) for name in source.files if is_content_file(name)):
        tokenizer = read_tokenizer(source)
        tokens |= tokenizer.tokens if tokenizer else {}
    else:
        decoder = settings(source).get(DECODER)
        for index, token in (decoder if isinstance(decoder, Mapping) else {}).items():
            text = token_text(token)
            if text is not None and str(index).isdigit():
                tokens[text] = int(index)
    without = sorted((index, token) for token, index in tokens.items() if index >= rows)
    if without:
        index, token = without[0]
        count = f"{len(without)} tokens, the first of them " if len(without) > 1 else "the token "
        shown = json.dumps(token, ensure_ascii=False)
        what = f"the tokenizer of '{source.name}' has {count}{shown} with id {index}, and its embedding has {rows} rows"
        advice = "the model fails on a text with such a token; add rows to the embedding, or remove the tokens"
        yield Finding("degrades", what, advice, TOKENIZER if TOKENIZER in source.files else TOKENIZER_SETTINGS)


def _ids_without_rows(
    name: str, facts: Mapping[str, Any], generation: Mapping[str, Any] | None, rows: int
) -> Iterator[Finding]:
    for file, written in ((CONFIGURATION, facts), (GENERATION, generation or {})):
        for key, index in token_ids(written):
            if index < rows or key.endswith("_token_index"):
                continue
            what = f"the {key} of '{name}' is {index} in {file}, and its embedding has {rows} rows"
            ends = key == "eos_token_id" and (generation is None or file == GENERATION)
            advice = "no text ever ends with that token" if ends else "there is no such token"
            yield Finding("degrades" if ends else "notes", what, f"{advice}; correct the id", file)


def _generation(name: str, facts: Mapping[str, Any], generation: Mapping[str, Any] | None) -> Iterator[Finding]:
    for key in sorted(generation or {}):
        value, other = (generation or {})[key], facts.get(key)
        if key not in _OF_EACH_FILE and other is not None and value != other:
            what = f"the {key} of '{name}' is {other} in {CONFIGURATION} and {value} in {GENERATION}"
            yield Finding("notes", what, f"{GENERATION} takes precedence when text is generated", GENERATION)


def _special_tokens(source: Source) -> Iterator[Finding]:
    if SPECIAL_TOKENS not in source.files or TOKENIZER_SETTINGS not in source.files:
        return
    first, second = source.json(TOKENIZER_SETTINGS), source.json(SPECIAL_TOKENS)
    preferred = TOKENIZER_SETTINGS if DECODER in first else SPECIAL_TOKENS
    for role in ROLES:
        token, other = token_text(first.get(role)), token_text(second.get(role))
        if token is not None and other is not None and token != other:
            what = (
                f"the {role} of '{source.name}' is {json.dumps(token)} in {TOKENIZER_SETTINGS} and {json.dumps(other)} "
                f"in {SPECIAL_TOKENS}"
            )
            yield Finding("notes", what, f"{preferred} takes precedence", preferred)


def _vocabulary(source: Source) -> Iterator[Finding]:
    """Compare vocab.json with tokenizer.json, if that takes no download."""
    names = (TOKENIZER, "vocab.json")
    if not all(name in source.files and source.is_local(name) for name in names):
        return
    model = source.json(TOKENIZER).get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    if isinstance(vocabulary, Mapping) and source.json("vocab.json").items() - vocabulary.items():
        what = f"'{source.name}' has other tokens in vocab.json than in {TOKENIZER}"
        yield Finding("notes", what, f"{TOKENIZER} takes precedence", "vocab.json")


def _templates(source: Source) -> Iterator[Finding]:
    templates = template_files(source)
    written = settings(source).get("chat_template") if source.has_tokenizer else None
    if templates and written and written != templates.get("default"):
        place = TEMPLATE if "default" in templates else TEMPLATE_FOLDER
        what = f"'{source.name}' has a chat template in {place} and another in {TOKENIZER_SETTINGS}"
        yield Finding("notes", what, f"{place} takes precedence", place)
    if PROCESSOR_TEMPLATE in source.files:
        text = source.json(PROCESSOR_TEMPLATE).get("chat_template")
        if text and text != (templates.get("default") or written):
            what = f"'{source.name}' has a chat template in {PROCESSOR_TEMPLATE}, which no tokenizer reads"
            yield Finding("notes", what, "only processors of images and audio read it", PROCESSOR_TEMPLATE)


def _left_out(source: Source) -> Iterator[Finding]:
    names = left_out(source.files)
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        what = f"a merge leaves out {', '.join(names[:SHOWN])}{more} of '{source.name}'"
        yield Finding("notes", what, "copy what you need yourself", names[0])
