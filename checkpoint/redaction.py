"""Secrets taken out of text before anybody sees it: passwords in addresses, signed queries, tokens, headers.

Secrets of the environment (tokens, endpoints and proxies with passwords) are recognised by their value, all others by
their form. Every pattern takes linear time in the length of the text.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote

HIDDEN = "***"
SHORTEST = 4  # shorter secrets are parts of ordinary words
_ADDRESS = re.compile(r"[^\s\"'<>`]+")
_QUERY = re.compile(
    r"([?&;](?:[\w.-]{0,40}(?:token|key|secret|sign|sig|credential|password|passwd|auth|policy)[\w.-]{0,40})=)[^\s&\"'<>]+",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"((?:authorization|(?:set-)?cookie|x-api-key)['\"]{0,2}\s{0,3}[:=,]\s{0,3}b?['\"]{0,2})[^'\"\r\n]+", re.IGNORECASE
)
_BEARER = re.compile(r"\b(bearer\s{1,3})[\w.~+/=-]{8,}", re.IGNORECASE)
_TOKEN = re.compile(r"\b(hf_|api_org_|hf_oauth_|ghp_|gho_|github_pat_|sk-)[A-Za-z0-9_-]{16,}")
_TOKEN_NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN", "HF_OIDC_TOKEN")
_ADDRESS_NAMES = ("HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def redact(text: str) -> str:
    """The text with every secret in it replaced by `HIDDEN`."""
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    if "://" in text:
        text = _ADDRESS.sub(lambda match: _without_secrets(match.group()), text)
    text = _QUERY.sub(rf"\1{HIDDEN}", text)
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    return _TOKEN.sub(rf"\1{HIDDEN}", _BEARER.sub(rf"\1{HIDDEN}", text))


def redacted(content: Any) -> Any:
    """JSON-ready data with every string in it redacted."""
    if isinstance(content, str):
        return redact(content)
    if isinstance(content, dict):
        return {key: redacted(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [redacted(value) for value in content]
    return content


class Redacting:
    """A text stream that writes no secrets, for the output of libraries: logs, warnings, progress bars."""

    def __init__(self, stream: IO[str]):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text without its secrets. Returns the length of the text, as other streams do."""
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write lines without their secrets."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _without_secrets(word: str) -> str:
    """A word with an address in it, without user, password and query."""
    if "://" not in word:
        return word
    before, *places = word.split("://")
    shown = [before]
    for place in places:
        ends = [end for end in map(place.find, "/?#") if end >= 0]
        end = min(ends, default=len(place))
        # A password may hold a slash that should have been quoted; the @ then comes after it.
        user = place.rfind("@", 0, end) if "@" in place[:end] else _late_user(place)
        if user >= 0:
            place = HIDDEN + place[user:]
        address, mark, _ = place.partition("?")
        shown.append(f"{address}?{HIDDEN}" if mark else address)
    return "://".join(shown)


def _late_user(place: str) -> int:
    """The index of the @ in an address whose password holds a slash; -1 if the @ belongs to a path."""
    user, colon, slash = place.rfind("@"), place.find(":"), place.find("/")
    port = place[colon + 1 : slash] if 0 <= colon < slash else ""
    return user if port and not port.isdigit() else -1


def _secrets() -> Iterator[str]:
    """The secrets of the environment, in each form in which they may be written."""
    for name in _TOKEN_NAMES:
        yield from _forms(os.environ.get(name, ""))
    for name in _ADDRESS_NAMES:
        for address in (os.environ.get(name, ""), os.environ.get(name.lower(), "")):
            user, at, _ = address.partition("://")[2].rpartition("@")
            if at:
                yield from _forms(user)
                yield from _forms(user.partition(":")[2])
                yield base64.b64encode(unquote(user).encode()).decode()
    yield from _forms(_stored_token())


def _stored_token() -> str:
    """The token that `hf auth login` stored."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "huggingface"
    place = Path(os.environ.get("HF_TOKEN_PATH") or Path(home) / "token")
    try:
        return place.read_text(encoding="utf-8")[:500] if place.is_file() else ""
    except (OSError, ValueError):
        return ""


def _forms(secret: str) -> Iterator[str]:
    secret = secret.strip()
    for form in {secret, unquote(secret), quote(unquote(secret), safe="")}:
        if len(form) >= SHORTEST:
            yield form
