"""Where text comes from: files, directories, jsonl, or the Python standard library itself."""

from __future__ import annotations

import ast
import json
import random
import re
import sysconfig
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePath

from ..checkpoint.errors import BadInput
from ..checkpoint.path_conflicts import Place
from ..checkpoint.reference import require_path, shown_name

STDLIB_EXCLUDED = frozenset(
    {"test", "tests", "idle_test", "idlelib", "lib2to3", "site-packages", "dist-packages", "turtledemo", "ensurepip"}
)
HELD_OUT_MODULUS = 10
WRITTEN = "written by the models"  # the label of text that the models have written, which no corpus has
TEXT_SUFFIXES = frozenset({".txt", ".md", ".rst", ".text", ".jsonl", ".py", ".tex", ".org", ""})

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_LABEL = re.compile(r"^([A-Za-z0-9_.-]+)=(.+)$", re.DOTALL)


@dataclass(frozen=True)
class Corpus:
    """A labelled collection of documents, each read when its turn comes.

    `readers` are functions without arguments; each returns one document or several.
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

    `source` is a text file, a directory of them, a `.jsonl` file with a `text` field, `stdlib:docs` (the docstrings of
    the standard library) or `stdlib:code` (its source without docstrings, so that the two share no text). Both take
    `:heldout`, the modules that the embedded checkpoints were not trained on, or `:train`, the others.

    Raises BadInput where there is no such source, or no text file in it.
    """
    label, source = label_and_source(spec)
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
    """The places of the files and directories in `--data`; nothing is read."""
    sources = [source for _, source in map(label_and_source, specs)]
    return [Place.of("the text", source) for source in sources if not source.startswith("stdlib:")]


def label_and_source(spec: str) -> tuple[str | None, str]:
    """The label of what `--data` takes, where it has one, and the source."""
    match = _LABEL.match(spec)
    return (match.group(1), match.group(2)) if match and not require_path(spec, "the text").exists() else (None, spec)


def _text_of(path: Path) -> str:
    name = shown_name(path)
    try:
        return path.read_text(encoding="utf-8-sig")  # a mark at the beginning is no text
    except UnicodeDecodeError as error:
        raise BadInput(
            f"'{name}' is not UTF-8 text (byte {error.start} is 0x{error.object[error.start]:02x}): "
            "convert it, for instance with iconv"
        ) from None
    except OSError as error:
        raise BadInput(f"cannot read '{name}': {error.strerror}") from None


def _read_file(path: Path) -> list[str]:
    name, text = shown_name(path), _text_of(path)
    if path.suffix.lower() != ".jsonl":
        return [text]
    documents = []
    for number, line in _parsed(text):
        document = line.get("text") if isinstance(line, dict) else None
        if not isinstance(document, str):
            raise BadInput(f"line {number} of '{name}' is not a JSON object with a 'text' field")
        if _SURROGATE.search(document):
            raise BadInput(f"line {number} of '{name}' holds half of a character (\\ud800 to \\udfff)")
        documents.append(document)
    return documents


def lines_of(path: Path) -> Iterator[tuple[int, object]]:
    """The lines of a `.jsonl` file that are not empty, by their numbers; None for one that is not JSON.

    Raises BadInput for a file that cannot be read, is not UTF-8, or holds half of a character.
    """
    text, name = _text_of(path), shown_name(path)
    for number, line in _parsed(text):
        if _SURROGATE.search(json.dumps(line, ensure_ascii=False)):
            raise BadInput(f"line {number} of '{name}' holds half of a character (\\ud800 to \\udfff)")
        yield number, line


def _parsed(text: str) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(text.split("\n"), start=1):  # a string may hold other separators
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, None


def held_out(module: str) -> bool:
    """Whether the embedded checkpoints were not trained on a module, given by its path in the library, with `/`."""
    return zlib.crc32(module.encode()) % HELD_OUT_MODULUS == 0


@cache
def _stdlib_files() -> tuple[tuple[str, Path], ...]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = ((path.relative_to(root), path) for path in sorted(root.rglob("*.py")))
    return tuple(
        (module.as_posix(), path)
        for module, path in files
        if not STDLIB_EXCLUDED.intersection(module.parts) and not module.parts[0].startswith("config-")
    )


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
    docstrings = [ast.get_docstring(node) for node in _documented(path)]
    return ["\n\n".join(text for text in docstrings if text)]


def _documented(path: Path) -> list[_Documented]:
    """The nodes of a module that have a docstring; none for a file that is not valid Python."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []
    nodes = [node for node in ast.walk(tree) if isinstance(node, _Documented)]
    return [node for node in nodes if ast.get_docstring(node, clean=False) is not None]
