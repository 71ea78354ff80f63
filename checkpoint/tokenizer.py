"""A tokenizer, as transformers builds it from a model's files, or, if it cannot, read from those files.

In transformers tokenizer.json takes precedence over vocab.json, vocab.txt and SentencePiece models. If
tokenizer_config.json has no added_tokens_decoder, special_tokens_map.json takes precedence over it; else it is not
read. Chat templates in files take precedence over the one in tokenizer_config.json.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from .errors import CorruptCheckpoint
from .rust_panics import is_failure, quiet_panics
from .sentencepiece import read_pieces
from .size_limits import require_pipeline, require_tokenizer_file
from .small_files import (
    ADDED_TOKENS,
    CONFIGURATION,
    SENTENCE_PIECES,
    SPECIAL_TOKENS,
    TEMPLATE,
    TOKENIZER,
    TOKENIZER_SETTINGS,
    is_template,
    is_tokenizer_file,
)
from .source import Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
EXTRA = ("additional_special_tokens", "extra_special_tokens")
DECODER = "added_tokens_decoder"


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer: ids by token, merges, special tokens by role, chat templates by name.

    `built` is the tokenizer of transformers, None if it could not be built or was not needed.
    """

    tokens: Mapping[str, int]
    merges: tuple[str, ...] = ()
    pipeline: Mapping[str, Any] | None = None
    special: Mapping[str, str | None] = field(default_factory=dict)
    templates: Mapping[str, str] = field(default_factory=dict)
    built: PreTrainedTokenizerBase | None = field(default=None, repr=False)


def read_tokenizer(source: Source) -> Tokenizer | None:
    """A tokenizer from its files alone, without transformers; None if only a library can read them.

    Raises CorruptCheckpoint if they are damaged.
    """
    special, templates = special_tokens(source), chat_templates(source)
    try:
        if TOKENIZER in source.files:
            content = source.json(TOKENIZER)
            require_pipeline(content, f"'{TOKENIZER}' of '{source.name}'")
            tokens, merges, pipeline = _fast(content)
        else:
            vocabulary = _vocabulary(source)
            if vocabulary is None:
                return None
            tokens, merges, pipeline = *vocabulary, None
        return Tokenizer(_with_added(source, tokens), merges, pipeline, special, templates)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise CorruptCheckpoint(f"the tokenizer of '{source.name}' is damaged: fetch its files again") from None


def build_tokenizer(source: Source, files: Mapping[str, Path]) -> Tokenizer | None:
    """The tokenizer that transformers builds from `files`, given by name; None if it cannot.

    Raises CorruptCheckpoint for a tokenizer.json that would fill the memory.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    if TOKENIZER in files:
        require_tokenizer_file(files[TOKENIZER], f"'{TOKENIZER}' of '{source.name}'")
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with quiet_panics(), tempfile.TemporaryDirectory(prefix="isthmus-tokenizer-") as folder:
            for name, path in files.items():
                target = Path(folder) / name
                target.parent.mkdir(exist_ok=True)
                target.symlink_to(path.absolute())
            built: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
            tokens = _numbered(built.get_vocab())
        special = {role: str(token) for role in ROLES if (token := getattr(built, role, None)) is not None}
    except BaseException as error:
        if not is_failure(error):
            raise
        return None
    finally:
        logging.set_verbosity(before)
    return Tokenizer(tokens, special=special, templates=chat_templates(source), built=built)


def files_to_build(source: Source) -> list[str]:
    """The files of a model from which its tokenizer is built."""
    return [CONFIGURATION, *sorted(filter(is_tokenizer_file, source.files))]


def settings(source: Source) -> dict[str, Any]:
    """The settings in tokenizer_config.json and special_tokens_map.json, with the precedence of transformers."""
    written = source.json(TOKENIZER_SETTINGS) if TOKENIZER_SETTINGS in source.files else {}
    if SPECIAL_TOKENS in source.files and DECODER not in written:
        written = written | source.json(SPECIAL_TOKENS)
    return written


def special_tokens(source: Source) -> dict[str, str | None]:
    """The special tokens in the settings, by role."""
    written = settings(source)
    return {role: token_text(written[role]) for role in ROLES if role in written}


def token_text(token: Any) -> str | None:
    """The text of a token, which files write as text or with its flags; None for anything else."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else None


def named_tokens(written: Mapping[str, Any]) -> Iterator[str]:
    """The tokens in settings, in the order in which transformers adds those that the vocabulary lacks."""
    decoder = written.get(DECODER)
    if isinstance(decoder, Mapping):
        numbered = [(int(index), token) for index, token in decoder.items() if str(index).isdigit()]
        yield from filter(None, (token_text(token) for _, token in sorted(numbered, key=lambda entry: entry[0])))
    yield from filter(None, (token_text(written[role]) for role in ROLES if role in written))
    others = (key for key in written if key.endswith("_token") and key not in ROLES)
    yield from filter(None, (token_text(written[key]) for key in others))
    for key in EXTRA:
        tokens = written.get(key)
        listed = tokens.values() if isinstance(tokens, Mapping) else tokens if isinstance(tokens, list) else ()
        yield from filter(None, map(token_text, listed))


def chat_templates(source: Source) -> dict[str, str]:
    """Chat templates by name, as transformers reads them; one without a name is "default"."""
    from_files = template_files(source)
    if from_files:
        return from_files
    written = settings(source).get("chat_template")
    if isinstance(written, str):
        return {"default": written}
    if isinstance(written, list):
        entries = [entry for entry in written if isinstance(entry, Mapping)]
        return {str(entry.get("name")): str(entry.get("template")) for entry in entries}
    if isinstance(written, Mapping):
        return {str(name): str(text) for name, text in written.items()}
    return {}


def template_files(source: Source) -> dict[str, str]:
    """The chat templates in separate files, by name."""
    names = [name for name in sorted(source.files) if name == TEMPLATE or is_template(name)]
    return {"default" if name == TEMPLATE else PurePosixPath(name).stem: source.text(name, "replace") for name in names}


def _fast(content: Mapping[str, Any]) -> tuple[dict[str, int], tuple[str, ...], dict[str, Any]]:
    model = content["model"]
    raw = model["vocab"]
    tokens = _numbered(raw if isinstance(raw, dict) else {entry[0]: index for index, entry in enumerate(raw)})
    tokens |= _numbered({entry["content"]: entry["id"] for entry in content.get("added_tokens", [])})
    merges = tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges", []))
    pipeline = {part: content.get(part) for part in ("normalizer", "pre_tokenizer")}
    return tokens, merges, pipeline | {"model": model.get("type", "BPE")}


def _vocabulary(source: Source) -> tuple[dict[str, int], tuple[str, ...]] | None:
    """Tokens and merges of a model without a tokenizer.json; None if only a library can read them."""
    if "vocab.json" in source.files:
        lines = _lines(source, "merges.txt") if "merges.txt" in source.files else []
        return _numbered(source.json("vocab.json")), tuple(m for m in lines if m and not m.startswith("#version"))
    if "vocab.txt" in source.files:
        return {token: index for index, token in enumerate(_lines(source, "vocab.txt"))}, ()
    for name in SENTENCE_PIECES:
        if name in source.files:
            pieces = read_pieces(source.content(name))
            return {piece: index for index, piece in enumerate(pieces)}, ()
    return None


def _lines(source: Source, filename: str) -> Sequence[str]:
    return source.text(filename).rstrip("\n").split("\n")


def _with_added(source: Source, tokens: dict[str, int]) -> dict[str, int]:
    """The tokens of the vocabulary and those that other files add."""
    written = settings(source)
    has_added = ADDED_TOKENS in source.files and DECODER not in written
    added = _numbered(source.json(ADDED_TOKENS)) if has_added else {}
    for token in (*sorted(added, key=added.__getitem__), *named_tokens(written)):
        if token not in tokens:  # it has the next id, as in the tokenizers library, whatever id a file gives it
            tokens[token] = max(tokens.values(), default=-1) + 1
    return tokens


def _numbered(tokens: Mapping[str, Any]) -> dict[str, int]:
    if not all(type(token) is str and type(index) is int and index >= 0 for token, index in tokens.items()):
        raise ValueError("a token is not text, or its id is not a number")
    return dict(tokens)
