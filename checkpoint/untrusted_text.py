"""Untrusted text (names, licences, tokens, lines of cards) made safe for a terminal and for a model card.

`plain` is for the terminal and for every sentence: one line of visible characters. `markdown` is for the card: the same
with everything escaped that Markdown or HTML would read as markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

LIMIT = 200
COMBINING = 3  # marks on one letter; more would cover the lines around it
# Printable according to Unicode, but invisible.
_SELECTORS = (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5") | frozenset(map(chr, _SELECTORS))
_ASCII = re.compile(r"[ -~]*\Z")
_MARKUP = re.compile(r"[\\`*\[\]<>|~$&#{}]|(?<![^\W_])_|_(?![^\W_])")
_LIST = re.compile(r"\A([-+=]|\d{1,9}[.)])")
_SCHEME = re.compile(r"://")
_WWW = re.compile(r"\bwww\.", re.IGNORECASE)
_MAIL = re.compile(r"@(?=[\w-]{1,60}\.[a-z])", re.IGNORECASE)


def plain(text: object, limit: int = LIMIT) -> str:
    """One line of visible characters from at most the first `limit` of the text; an ellipsis shows that it was cut.

    Control characters, line breaks, characters that change the direction of writing, invisible ones and halves of
    surrogate pairs are written as escapes of Python (`\\x1b`); other kinds of spaces become a space.
    """
    content = str(text)
    short = content[:limit]
    if not _ASCII.match(short):
        short = _visible(short)
    return short if len(content) <= limit else f"{short}…"


def plain_lines(text: str, limit: int = 4000) -> str:
    """Several lines of text, each made plain."""
    return "\n".join(plain(line.expandtabs(4), limit) for line in text.split("\n"))


def markdown(text: object, limit: int = LIMIT) -> str:
    """Text inside a line, a cell, a heading or a list item of Markdown, shown literally.

    Addresses get a space, so that no reader turns them into links.
    """
    line = plain(text, limit)
    line = _MAIL.sub("@ ", _WWW.sub("www. ", _SCHEME.sub(": //", line)))
    line = _MARKUP.sub(lambda match: f"\\{match.group()}", line)
    return _LIST.sub(lambda match: f"{match.group()[:-1]}\\{match.group()[-1]}", line)


def code(text: object, limit: int = LIMIT) -> str:
    """Text as a code span of Markdown, also inside a table."""
    return f"`{plain(text, limit).replace('`', chr(39)).replace('|', '¦')}`"


def fence(text: str) -> str:
    """A fence for a code block with this text, which the text cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    return "`" * max(3, longest + 1)


def json_text(content: object, *, allow_nan: bool = False) -> str:
    """Indented JSON with every invisible character in strings escaped.

    Raises ValueError for NaN and infinity, unless `allow_nan`.
    """
    written = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=allow_nan)
    return written if written.isascii() else re.sub(r"[^\n -~]", _json_escape, written)


def shortened(content: Any, limit: int = 2000) -> Any:
    """JSON-ready data with every string in it, keys included, cut to `limit` characters."""
    if isinstance(content, str):
        return content if len(content) <= limit else f"{content[:limit]}…"
    if isinstance(content, Mapping):
        return {shortened(key, limit): shortened(value, limit) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [shortened(value, limit) for value in content]
    return content


def _visible(text: str) -> str:
    import unicodedata

    shown, marks = [], 0
    for char in text:
        marks = marks + 1 if unicodedata.category(char) in ("Mn", "Me") else 0
        if char.isprintable() and char not in _BLANK and marks <= COMBINING:
            shown.append(char)
        elif unicodedata.category(char) == "Zs":
            shown.append(" ")
        else:
            shown.append(char.encode("unicode_escape").decode("ascii"))
    return "".join(shown)


def _json_escape(match: re.Match[str]) -> str:
    char = match.group()
    return char if char.isprintable() and char not in _BLANK else json.dumps(char)[1:-1]
