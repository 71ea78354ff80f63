"""Bounds on what strangers' files may hold, by kind: bytes, entries, numbers that size something.

Everything is held against its bound before anything is built from it. The bounds lie far above what real models have:
the largest tokenizers take about 35 MB, the largest indexes about 20 MB, the deepest models a few hundred layers.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import BadInput, CorruptCheckpoint
from .untrusted_text import plain

MB = 2**20
# Bytes of the files that a merge reads or carries over.
LARGEST = {
    "config.json": 4 * MB,
    "generation_config.json": 4 * MB,
    "adapter_config.json": 4 * MB,
    "special_tokens_map.json": 4 * MB,
    "chat_template.jinja": 4 * MB,
    "tokenizer_config.json": 16 * MB,
    "added_tokens.json": 16 * MB,
    "tokenizer.json": 64 * MB,
    "vocab.json": 64 * MB,
    "vocab.txt": 64 * MB,
    "merges.txt": 64 * MB,
    "tokenizer.model": 64 * MB,
    "spiece.model": 64 * MB,
    **dict.fromkeys(
        (
            "spm.model",
            "sentencepiece.model",
            "sentencepiece.bpe.model",
            "spm_char.model",
            "source.spm",
            "target.spm",
            "tekken.json",
            "tiktoken.model",
            "byte_maps.json",
            "bpe.codes",
            "dict.txt",
        ),
        64 * MB,
    ),
    "model.safetensors.index.json": 32 * MB,
    "pytorch_model.bin.index.json": 32 * MB,
}
# Bytes of files that only say something of a model; a larger one is not read.
DOCUMENT, CARD_BYTES, FRONT_MATTER = MB, 8 * MB, MB // 2
RECIPE = MB // 4
HEADER, ENTRIES, AXES, AXIS = 32 * MB, 250_000, 32, 2**40
VALUES = 6_000_000  # of one JSON file
FILES = 20_000  # of one model's folder
DEPTH = 32  # of config.json
LAYERS, EXPERTS_OF_ALL_LAYERS, LABELS, COUNT = 1_000, 100_000, 100_000, 1_000_000
WIDTH, VOCABULARY, POSITIONS, WHOLE = 2**24, 2**24, 2**25, 2**63 - 1
# Every module of transformers needs these to be whole numbers from 1 on.
SIZES = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "n_inner", "intermediate_size", "ffn_dim"), WIDTH),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_key_value_heads", "head_dim"), WIDTH),
    **dict.fromkeys(("vocab_size", "n_vocab", "vocabulary_size"), VOCABULARY),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), POSITIONS),
}
# The steps of a tokenizer around its vocabulary: objects and lists, levels, how many times longer they make a text.
STEPS, NESTING, PIECES, GROWTH, PADDING = 2_000, 16, 64, 10_000, 2**20
PIPELINE = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_KINDS = {"label": LABELS, "layer": LAYERS, "expert": COUNT, "position": POSITIONS, "vocab": VOCABULARY}
_STATISTICS = re.compile(r"param|token|step|sample|flop|word|embed")  # what a file may count without sizing anything
_ODD = {stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device"}


def require_plain(path: Path, model: str) -> None:
    """Raise CorruptCheckpoint for what would hang or never end when it is read: a pipe, a socket, a device."""
    kind = _odd_kind(path.stat().st_mode)
    if kind:
        raise CorruptCheckpoint(f"'{path.name}' of '{model}' is {kind}, not a file: remove it")


def require_sizes(sizes: Mapping[str, int | None], model: str) -> None:
    """Raise CorruptCheckpoint where one of a model's files is larger than files of its kind are."""
    for name, limit in LARGEST.items():
        require_size(sizes.get(name) or 0, limit, f"'{name}' of '{model}'")


def require_size(size: int, limit: int, where: str) -> None:
    """Raise CorruptCheckpoint for more bytes than `limit`; `where` names the file."""
    if size > limit:
        raise CorruptCheckpoint(
            f"{where} has {_megabytes(size)}, more than the {_megabytes(limit)} that isthmus reads of such a file: "
            "it is damaged, or not what its name says"
        )


def read_bytes(path: Path, limit: int, where: str) -> bytes:
    """The content of a plain file of at most `limit` bytes; never waits for a pipe, never reads more.

    Raises CorruptCheckpoint for a larger file and for what is no plain file; OSError as opening does.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise CorruptCheckpoint(f"{where} is {_odd_kind(facts.st_mode) or 'a directory'}, not a file: remove it")
        require_size(facts.st_size, limit, where)
        content = file.read(limit + 1)
    require_size(len(content), limit, where)
    return content


def require_values(raw: bytes, where: str) -> bytes:
    """JSON as it is, if it holds no more values than `VALUES`. Raises CorruptCheckpoint.

    A value takes up to 30 times its bytes once it is parsed; each stands after a comma or an opening bracket.
    """
    values = sum(map(raw.count, (b",", b"[", b"{")))
    if values > VALUES:
        raise CorruptCheckpoint(
            f"{where} holds about {values:,} values, more than the {VALUES:,} that isthmus reads: it is damaged, or "
            "made to fill the memory"
        )
    return raw


def require_few_files(names: Collection[object], model: str) -> None:
    """Raise BadInput for a folder of more files than a model has."""
    if len(names) > FILES:
        raise BadInput(f"'{model}' holds more than {FILES:,} files: give the folder of one model")


def require_header(raw: bytes, where: str) -> bytes:
    """A safetensors header as it is, if it has no more entries than `ENTRIES`. Raises CorruptCheckpoint."""
    require_values(raw, where)
    entries = raw.count(b'"data_offsets"')
    if entries > ENTRIES:
        raise CorruptCheckpoint(
            f"the header of {where} has {entries:,} entries, more than the {ENTRIES:,} that isthmus reads: fetch the "
            "file again"
        )
    return raw


def require_shapes(header: Mapping[str, Any], where: str) -> None:
    """Raise CorruptCheckpoint for a shape in a parsed header with too many axes, or with one that is too long."""
    for name, entry in header.items():
        shape = entry["shape"]
        if len(shape) > AXES or any(isinstance(axis, int) and axis > AXIS for axis in shape):
            # Short, as the shape may be the whole of a large header.
            raise CorruptCheckpoint(
                f"the header of {where} gives '{plain(name, 100)}' a shape that no tensor has: fetch the file again"
            )


def require_numbers(facts: Mapping[str, Any], model: str) -> None:
    """Hold every number of config.json that sizes something against its bound, in parts of the model, too.

    Raises CorruptCheckpoint for one that is too large, negative, or not whole where a whole number is needed.
    """
    layers = experts = 1
    for key, value in _entries(facts, model):
        limit = _limit(key)
        if key in SIZES and value is not None and (type(value) is not int or value < 1):
            raise CorruptCheckpoint(
                f"config.json of '{model}' says {plain(key, 60)} = {plain(repr(value), 60)}: expected a whole number "
                "from 1"
            )
        if isinstance(value, int) and abs(value) > limit:
            shown = str(value) if abs(value) < 2**64 else "a number of more than 64 bits"
            raise CorruptCheckpoint(
                f"config.json of '{model}' says {plain(key, 60)} = {shown}, and isthmus reads up to {limit:,}"
            )
        if isinstance(value, int) and limit == LAYERS:
            layers = max(layers, value)
        if isinstance(value, int) and "expert" in key:
            experts = max(experts, value)
    if layers * experts > EXPERTS_OF_ALL_LAYERS:
        raise CorruptCheckpoint(
            f"config.json of '{model}' says {layers} layers and {experts} experts, and isthmus reads up to "
            f"{EXPERTS_OF_ALL_LAYERS:,} experts in all layers"
        )


def require_tensors(facts: Mapping[str, Any], count: int, model: str) -> None:
    """Raise CorruptCheckpoint for a model of more layers than its files hold tensors: its module would take minutes."""
    layers = max((value for key, value in _entries(facts, model) if SIZES.get(key) == LAYERS), default=0)
    if layers > max(count, 1):
        raise CorruptCheckpoint(
            f"config.json of '{model}' says {layers} layers, and its files hold {count} tensors: fetch the model again"
        )


def require_pipeline(content: Mapping[str, Any], where: str) -> None:
    """Hold the steps of a tokenizer.json against what its text would become: nested steps, steps that multiply.

    Raises CorruptCheckpoint.
    """
    padding = content.get("padding")
    if isinstance(padding, Mapping):
        strategy = padding.get("strategy")
        fixed = strategy.get("Fixed") if isinstance(strategy, Mapping) else None
        if any(isinstance(n, int) and n > PADDING for n in (fixed, padding.get("pad_to_multiple_of"))):
            raise CorruptCheckpoint(f"{where} pads every text to more than {PADDING:,} tokens: do not trust this model")
    for part in PIPELINE:
        growth, steps = 1.0, 0
        todo: list[tuple[Any, int]] = [(content.get(part), 1)]
        while todo:
            step, depth = todo.pop()
            if not isinstance(step, (Mapping, list)):
                continue
            steps += 1
            if steps > STEPS or depth > NESTING or growth > GROWTH:
                raise CorruptCheckpoint(
                    f"the {part} of {where} has more steps, or makes a text longer, than that of any tokenizer: do not "
                    "trust this model"
                )
            if isinstance(step, Mapping):
                growth *= _growth(step)
            inner = step.values() if isinstance(step, Mapping) else step
            todo += [(entry, depth + 1) for entry in inner]
        if growth > GROWTH:
            raise CorruptCheckpoint(
                f"the {part} of {where} makes a text up to {growth:.0e} times longer: do not trust this model"
            )


def require_tokenizer_file(path: Path, where: str) -> None:
    """As `require_pipeline`, for a tokenizer.json; one that is not JSON is left to the tokenizer's own reader."""
    try:
        content = json.loads(require_values(read_bytes(path, LARGEST["tokenizer.json"], where), where))
    except (ValueError, RecursionError):
        return
    if isinstance(content, Mapping):
        require_pipeline(content, where)


def _growth(step: Mapping[str, Any]) -> float:
    """How many times longer one step can make a text."""
    kind = step.get("type")
    if kind == "TemplateProcessing":
        pieces = (step.get(side) for side in ("single", "pair"))
        return GROWTH + 1.0 if any(isinstance(p, list) and len(p) > PIECES for p in pieces) else 1.0
    if kind == "Prepend":
        return 1.0 + len(str(step.get("prepend") or "")) / 2
    if kind != "Replace":
        return 1.0
    pattern, content = step.get("pattern"), str(step.get("content") or "")
    literal = pattern.get("String") if isinstance(pattern, Mapping) else None
    if isinstance(literal, str):
        return max(1.0, len(content) / max(1, len(literal)))
    return 1.0 + len(content)  # a regular expression may match nothing, everywhere


def _limit(key: str) -> int:
    """The bound of the numbers under a key."""
    if key in SIZES:
        return SIZES[key]
    word = key.lower()
    if word.endswith(("_id", "_ids", "seed")):
        return WHOLE
    if word.startswith(("num_", "n_")) or word.endswith(("layers", "labels", "experts", "_depth")):
        for part, limit in _KINDS.items():
            if part in word:
                return limit
        return WHOLE if _STATISTICS.search(word) else COUNT
    return WHOLE


def _entries(facts: Mapping[str, Any], model: str) -> Iterator[tuple[str, Any]]:
    """Every (key, value) of nested objects; numbers in a list stand under the list's key."""
    todo: list[tuple[str, Any, int]] = [("", facts, 0)]
    while todo:
        key, value, depth = todo.pop()
        if depth > DEPTH:
            raise CorruptCheckpoint(f"config.json of '{model}' is nested more than {DEPTH} levels deep: it is damaged")
        if isinstance(value, Mapping):
            todo += [(str(inner), part, depth + 1) for inner, part in value.items()]
        elif isinstance(value, list):
            todo += [("" if key in SIZES else key, part, depth + 1) for part in value]
        else:
            yield key, value


def _odd_kind(mode: int) -> str | None:
    return next((kind for test, kind in _ODD.items() if test(mode)), None)


def _megabytes(size: int) -> str:
    return f"{size / MB:.1f} MB" if size % MB or size < MB else f"{size // MB:,} MB"
