"""Text in, token blocks out: files, directories, jsonl, or the Python standard library itself.

The text of every label is cut into three disjoint parts. **fit** trains (bends, learned alignment), **select**
chooses (t, alignment), **report** is what gets shown. No token serves two.
"""

from __future__ import annotations

import ast
import json
import random
import re
import sysconfig
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path, PurePath
from typing import Protocol

import torch
from torch import Tensor

from ..checkpoint.errors import BadInput, TooLittleText, one_line
from ..checkpoint.path_conflicts import Place
from ..checkpoint.reference import require_path, shown_name
from ..checkpoint.rust_panics import is_failure
from .seen import Seen

STDLIB_EXCLUDED = frozenset(
    {
        "test",
        "tests",
        "idle_test",
        "idlelib",
        "lib2to3",
        "site-packages",
        "dist-packages",
        "turtledemo",
        "ensurepip",
    }
)
HELD_OUT_MODULUS = 10
SLICE = 2**17  # characters tokenised at once, so that only as much of a large file is as is needed
TEXT_SUFFIXES = frozenset({".txt", ".md", ".rst", ".text", ".jsonl", ".py", ".tex", ".org", ""})

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

_LABEL = re.compile(r"^([A-Za-z0-9_.-]+)=(.+)$", re.DOTALL)


class Tokenizer(Protocol):
    """What isthmus needs of a tokenizer: `transformers` tokenizers satisfy it."""

    eos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool, verbose: bool) -> list[int]:
        """Token ids of a text."""
        ...


@dataclass(frozen=True)
class Corpus:
    """A labelled collection of documents, read one by one when asked.

    `readers` are functions without arguments, each giving one document or several.
    """

    label: str
    origin: str
    readers: Sequence[Callable[[], list[str]]] = field(repr=False)

    def documents(self, seed: int = 0) -> Iterator[str]:
        """All documents, in an order drawn from `seed`."""
        order = list(range(len(self.readers)))
        random.Random(seed).shuffle(order)
        for index in order:
            yield from (text for text in self.readers[index]() if text.strip())


def corpus(spec: str) -> Corpus:
    """A corpus from what `--data` takes: `[label=]source`.

    `source` is a text file, a directory of them, a `.jsonl` file with a `text` field, or `stdlib:docs` (the
    docstrings of the standard library) or `stdlib:code` (its source without them, so that the two share no text),
    either with `:heldout` for the modules on which the embedded checkpoints were never trained, or `:train` for the
    others.

    Raises BadInput when there is no such source or it holds no text.
    """
    label, source = _label_and_source(spec)
    if source.startswith("stdlib:"):
        _, kind, *rest = source.split(":")
        part = rest[0] if rest else "all"
        if kind not in ("docs", "code") or part not in ("all", "train", "heldout") or len(rest) > 1:
            raise BadInput(
                f"no built-in corpus '{source}': take stdlib:docs or stdlib:code, with :heldout or :train or neither"
            )
        return Corpus(label or kind, source, _stdlib_readers(kind, part))
    path = require_path(source, "the text")
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in TEXT_SUFFIXES)
        if not files:
            raise BadInput(f"no text files in the directory '{path}': give .txt, .md, .rst, .py or .jsonl files")
    elif path.is_file():
        files = [path]
    else:
        raise BadInput(f"no text at '{source}': give a file, a directory, stdlib:docs or stdlib:code")
    name = shown_name(path)
    return Corpus(label or PurePath(name).stem, name, [lambda p=p: _read_file(p) for p in files])  # type: ignore[misc]


def text_places(specs: Iterable[str]) -> list[Place]:
    """Where the files and directories are that `--data` takes; nothing is read."""
    sources = [source for _, source in map(_label_and_source, specs)]
    return [Place.of("the text", source) for source in sources if not source.startswith("stdlib:")]


def _label_and_source(spec: str) -> tuple[str | None, str]:
    match = _LABEL.match(spec)
    return (match.group(1), match.group(2)) if match and not require_path(spec, "the text").exists() else (None, spec)


def _read_file(path: Path) -> list[str]:
    name = shown_name(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"'{name}' is not UTF-8 text (byte {error.start} is 0x{error.object[error.start]:02x}): "
            "convert it, for instance with iconv"
        ) from None
    except OSError as error:
        raise BadInput(f"cannot read '{name}': {error.strerror}") from None
    if path.suffix.lower() != ".jsonl":
        return [text]
    documents = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError, RecursionError):
            found = None
        if not isinstance(found, str):
            raise BadInput(f"line {number} of '{name}' is not a JSON object with a 'text' field")
        if not found.isascii():
            try:
                found.encode("utf-8")
            except UnicodeEncodeError:
                raise BadInput(f"line {number} of '{name}' holds half of a character (\\ud800 to \\udfff)") from None
        documents.append(found)
    return documents


def held_out(module: str) -> bool:
    """Whether a standard-library module (by its path below the library, with `/`) is kept out of training."""
    return zlib.crc32(module.encode()) % HELD_OUT_MODULUS == 0


@cache
def _stdlib_files() -> tuple[tuple[str, Path], ...]:
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not STDLIB_EXCLUDED.intersection(relative.parts) and not relative.parts[0].startswith("config-"):
            found.append((relative.as_posix(), path))
    return tuple(found)


def _stdlib_readers(kind: str, part: str) -> list[Callable[[], list[str]]]:
    read = _docstrings if kind == "docs" else _source
    return [
        lambda path=path: read(path)  # type: ignore[misc]
        for module, path in _stdlib_files()
        if part == "all" or held_out(module) == (part == "heldout")
    ]


def _source(path: Path) -> list[str]:
    lines = path.read_bytes().splitlines(keepends=True)
    for node in _documented(path):
        statement = node.body[0]
        first, last = statement.lineno - 1, (statement.end_lineno or statement.lineno) - 1
        before, after = lines[first][: statement.col_offset], lines[last][statement.end_col_offset :]
        lines[first : last + 1] = [b""] * (last - first) + [before + after if (before + after).strip() else b""]
    return [b"".join(lines).decode("utf-8", errors="replace")]


def _docstrings(path: Path) -> list[str]:
    found = [ast.get_docstring(node) for node in _documented(path)]
    return ["\n\n".join(text for text in found if text)]


def _documented(path: Path) -> list[_Documented]:
    """The nodes of a module that have a docstring; none for a file that is no valid Python."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []
    nodes = [node for node in ast.walk(tree) if isinstance(node, _Documented)]
    return [node for node in nodes if ast.get_docstring(node, clean=False) is not None]


@dataclass(frozen=True)
class Blocks:
    """The three parts of one label: token ids, each (blocks, context), int64."""

    label: str
    fit: Tensor
    select: Tensor
    report: Tensor


def labelled_blocks(
    specs: Sequence[str],
    tokenizer: Tokenizer,
    *,
    context: int,
    vocabulary: int,
    fit_tokens: int = 0,
    select_tokens: int = 8192,
    report_tokens: int = 8192,
    seed: int = 0,
    seen: Seen | None = None,
) -> tuple[Blocks, ...]:
    """The blocks of every corpus that `specs` name (`corpus`, `blocks`).

    Text comes twice in many corpora: fit blocks that repeat what is measured on, of any label, are dropped (`Seen`).

    Raises BadInput for two texts of one label, for token ids outside the `vocabulary`, for text that is nothing but
    repetitions, and as `corpus` and `blocks` do.
    """
    found: dict[str, Blocks] = {}
    for source in map(corpus, specs):
        if source.label in found:
            raise BadInput(
                f"two texts have the label '{source.label}': name them, as in --data first=a.txt --data second=b.txt"
            )
        part = blocks(
            source,
            tokenizer,
            context=context,
            fit_tokens=fit_tokens,
            select_tokens=select_tokens,
            report_tokens=report_tokens,
            seed=seed,
            seen=seen,
        )
        highest = max(int(ids.max()) for ids in (part.fit, part.select, part.report) if ids.numel())
        if highest >= vocabulary:
            raise BadInput(
                f"the tokenizer gives the id {highest}, beyond the vocabulary of {vocabulary}: "
                "it belongs to another model"
            )
        found[source.label] = part
    measured = Seen.of((part for text in found.values() for part in (text.report, text.select)), every=1)
    return tuple(_without(measured, text) for text in found.values())


def _without(measured: Seen, text: Blocks) -> Blocks:
    """One label's blocks without the fit blocks that hold what is measured on."""
    fit = text.fit[~measured.within(text.fit)]
    if len(text.fit) and not len(fit):
        raise TooLittleText(
            f"the text '{text.label}' repeats itself: nothing is left to train on that is not measured on, too; "
            "give text that says more"
        )
    return replace(text, fit=fit)


def blocks(
    source: Corpus,
    tokenizer: Tokenizer,
    *,
    context: int,
    fit_tokens: int = 0,
    select_tokens: int = 8192,
    report_tokens: int = 8192,
    seed: int = 0,
    seen: Seen | None = None,
) -> Blocks:
    """Cut a corpus into fit, select and report blocks of `context` tokens each.

    Documents are taken in an order drawn from `seed`, joined by the end-of-text token and tokenised until there is
    enough; the blocks are then shuffled and dealt out, report first. When the text is shorter than what is
    asked, fit gets what the other two leave, and these are scaled down alike to the whole text, or to half of it where
    there is to be a fit part. Blocks with text that was `seen` before are left out.

    Raises TooLittleText when the text is empty, or too short for one block in every part that was asked for.
    """
    wanted = {"report": report_tokens, "select": select_tokens, "fit": fit_tokens}
    counts = {part: -(-tokens // context) for part, tokens in wanted.items()}
    needed = sum(counts.values())
    table, read = _table(_tokens(source, tokenizer, seed), context, needed, seen)
    if not read:
        raise TooLittleText(f"the text '{source.label}' ({source.origin}) is empty")
    available, parts = len(table), sum(1 for count in counts.values() if count)
    if available < parts:
        known = f", {available * context} of them in blocks that training has not seen" if seen else ""
        raise TooLittleText(
            f"the text '{source.label}' ({source.origin}) has {read} tokens{known}, too short: {parts} disjoint "
            f"parts of at least one block of {context} tokens are needed ({parts * context} tokens)"
        )
    if available < needed:
        counts = _scaled(counts, available)
    shuffled = table[torch.randperm(available, generator=torch.Generator().manual_seed(seed))]
    sizes = [counts["report"], counts["select"], counts["fit"]]
    report, select, fit = torch.split(shuffled[: sum(sizes)], sizes)
    return Blocks(source.label, fit=fit, select=select, report=report)


def _tokens(source: Corpus, tokenizer: Tokenizer, seed: int) -> Iterator[list[int]]:
    """The token ids of all documents, some at a time, an end-of-text token after every document."""
    for text in source.documents(seed):
        for start in range(0, len(text), SLICE):
            yield _encoded(text[start : start + SLICE], tokenizer, source.label)
        if tokenizer.eos_token_id is not None:
            yield [tokenizer.eos_token_id]


def _encoded(text: str, tokenizer: Tokenizer, label: str) -> list[int]:
    try:
        return tokenizer.encode(text, add_special_tokens=False, verbose=False)
    except BaseException as error:
        if not is_failure(error) or isinstance(error, MemoryError):
            raise
        raise BadInput(
            f"the tokenizer of these models fails on the text '{label}' ({type(error).__name__}: {one_line(error)}): "
            "it is damaged; fetch its files again"
        ) from None


def _table(pieces: Iterator[list[int]], context: int, needed: int, seen: Seen | None) -> tuple[Tensor, int]:
    """At least `needed` unseen blocks, (blocks, context), or all there are; and the number of tokens read for them."""
    kept = [torch.empty(0, context, dtype=torch.int64)]
    pending: list[int] = []
    read = available = 0
    for piece in pieces:
        read += len(piece)
        pending.extend(piece)
        whole = len(pending) // context * context
        found = torch.tensor(pending[:whole], dtype=torch.int64).view(-1, context)
        del pending[:whole]
        kept.append(found[~seen.within(found)] if seen else found)
        available += len(kept[-1])
        if available >= needed:
            break
    return torch.cat(kept), read


def _scaled(counts: Mapping[str, int], available: int) -> dict[str, int]:
    """Blocks of every part when there are fewer than asked for; one at least in every part that is."""
    fit = counts["fit"]
    measured = {part: count for part, count in counts.items() if part != "fit"}
    room = min(sum(measured.values()), max(len(measured), available // 2) if fit else available)
    scaled = {
        part: max(1, count * room // max(1, sum(measured.values()))) if count else 0 for part, count in measured.items()
    }
    while sum(scaled.values()) > room:
        scaled[max(scaled, key=lambda part: scaled[part])] -= 1
    return {**scaled, "fit": min(fit, available - sum(scaled.values()))}
