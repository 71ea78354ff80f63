"""Calls to the Hub through huggingface_hub, and the files of its repositories, whole or in parts.

A call is repeated after a transient failure; of any other, one sentence says what failed. Transient are a dropped or
stalled connection, a rate limit (429) and the answers of an overloaded server (408, 5xx). The call is repeated after a
pause that doubles, or that the server asks for, unless that is too long.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .errors import BadInput, CorruptCheckpoint, IsthmusError, ModelNotFound
from .redaction import redact
from .reference import Reference
from .untrusted_text import plain

T = TypeVar("T")

ATTEMPTS = 4
PAUSE = 0.5
LONGEST_PAUSE = 60.0
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
LOG_IN = "log in with 'hf auth login'"


class Unreachable(Exception):
    """The Hub did not answer at all."""


def ask(name: str, call: Callable[[], T]) -> T:
    """The result of a call to the Hub for the repository `name`, after at most `ATTEMPTS` attempts.

    Raises Unreachable without a network; otherwise ModelNotFound, BadInput or IsthmusError, in one sentence.
    """
    pause = PAUSE
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except Exception as error:
            wait = max(pause, _requested_pause(error)) if is_transient(error) else LONGEST_PAUSE + 1
            if attempt == ATTEMPTS or wait > LONGEST_PAUSE:
                raise _translated(name, error) from error
            time.sleep(wait)
            pause *= 2
    raise AssertionError("the last attempt returns or raises")


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed in a moment: not without a network, nor after a refusal."""
    if _is_no_network(error):
        return False
    status = status_of(error)
    if status is not None:
        return status in TRANSIENT
    return _is_connection(error) or (error.__cause__ is not None and is_transient(error.__cause__))


def status_of(error: BaseException) -> int | None:
    """The HTTP status in an exception; None if there was no answer."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _requested_pause(error: BaseException) -> float:
    """The seconds to wait that the server asks for, else 0."""
    response: Any = getattr(error, "response", None)
    if response is None:
        return _requested_pause(error.__cause__) if error.__cause__ else 0.0
    written = response.headers.get("Retry-After", "")
    return float(written) if written.isdigit() else 0.0


def _is_connection(error: BaseException) -> bool:
    library = type(error).__module__.partition(".")[0]
    return library.startswith(("httpx", "httpcore")) or isinstance(error, (ConnectionError, TimeoutError))


def _is_no_network(error: BaseException) -> bool:
    return type(error).__name__ in ("ConnectError", "OfflineModeIsEnabled") or isinstance(error, ConnectionRefusedError)


def _translated(name: str, error: Exception) -> Exception:
    """The exception to raise for one of huggingface_hub."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return ModelNotFound(f"'{name}' is gated: accept its terms on the Hub, then {LOG_IN}")
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFound(f"'{name}' has no such revision: check what follows the @")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelNotFound(
            f"there is no model '{name}' on the Hub, or it is private: check the spelling, or {LOG_IN}"
        )
    if isinstance(error, errors.HFValidationError):
        return BadInput(f"'{name}' is not a valid Hub id")
    if isinstance(error, errors.LocalEntryNotFoundError):
        cause = error.__cause__
        return _translated(name, cause) if isinstance(cause, errors.HfHubHTTPError) else Unreachable(str(error))
    if isinstance(error, errors.EntryNotFoundError):
        return ModelNotFound(f"a file of '{name}' is missing on the Hub")
    status = status_of(error)
    if status in (401, 403):
        return ModelNotFound(f"the Hub refused access to '{name}' ({status}): {LOG_IN}")
    if status == 412:
        return IsthmusError(f"'{name}' was changed by somebody else in the meantime: look at it, and try again")
    if status is not None:
        message = getattr(error, "server_message", None) if status not in TRANSIENT else None
        reason = plain(redact(str(message))) if message else "try again later"
        return ModelNotFound(f"the Hub answered {status} for '{name}': {reason}")
    if _is_connection(error) or _is_no_network(error):
        return Unreachable(str(error))
    if isinstance(error.__cause__, Exception) and not isinstance(error, (IsthmusError, ValueError)):
        return _translated(name, error.__cause__)
    return error


def fetch_file(reference: Reference, filename: str, revision: str | None, limit: int | None) -> Path:
    """The path of a file in the cache, downloaded first if it is not there; at most `limit` bytes, if there is a limit.

    Raises CorruptCheckpoint for more bytes, and what `ask` raises.
    """
    from huggingface_hub import hf_hub_download

    bars = None if limit is None else capped(limit, f"'{filename}' of '{reference.name}'")
    repo, path = str(reference.repo_id), reference.path_of(filename)
    return Path(ask(reference.name, lambda: hf_hub_download(repo, path, revision=revision, tqdm_class=bars)))


def capped(limit: int, where: str) -> type[Any]:
    """A class of progress bars that stops a download by huggingface_hub after `limit` bytes, with CorruptCheckpoint.

    Without it huggingface_hub writes whatever a server sends, even beyond the size that the server announced. `where`
    names the file in the error.
    """
    from huggingface_hub.utils import tqdm

    class Capped(tqdm):  # type: ignore[misc, type-arg, unused-ignore]
        received = 0
        monitor_interval = 0  # else every class starts a thread that never ends

        def update(self, n: float | None = 1) -> bool | None:
            """Count the bytes before they are written."""
            self.received += int(n or 0)
            if self.received > limit:
                raise CorruptCheckpoint(
                    f"{where} does not end after the {limit:,} bytes that it may have: do not trust it"
                )
            displayed: bool | None = super().update(n)
            return displayed

    return Capped


def read_range(reference: Reference, filename: str, revision: str | None, start: int, stop: int) -> tuple[bytes, int]:
    """The bytes from `start` up to `stop` of a file on the Hub, and the size of the file; never reads more than that.

    Raises CorruptCheckpoint if the server sends no parts of files, and what `ask` raises.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = hf_hub_url(str(reference.repo_id), reference.path_of(filename), revision=revision)
    headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}

    def read() -> tuple[bytes, int]:
        with get_session().stream("GET", url, headers=headers) as response:
            hf_raise_for_status(response)
            content = b""
            for part in response.iter_raw():
                content += part
                if len(content) >= stop - start:
                    break
            size = response.headers.get("Content-Range", "").rpartition("/")[2]
            if response.status_code != 206 or not size.isdigit():
                raise CorruptCheckpoint(
                    f"'{filename}' of '{reference.name}' cannot be read in part: download the model first"
                )
            return content[: stop - start], int(size)

    return ask(reference.name, read)


class RemoteFile(io.RawIOBase):
    """A file on the Hub of a known size; `read` gives the bytes from a start up to a stop."""

    def __init__(self, read: Callable[[int, int], bytes], size: int):
        self._read, self._size, self._position = read, size, 0

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Always true."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position; nothing is requested."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer by one request. Raises OSError if that fails."""
        stop = min(self._size, self._position + len(buffer))
        if stop <= self._position:
            return 0
        try:
            content = self._read(self._position, stop)
        except (Unreachable, IsthmusError) as error:
            raise OSError(str(error)) from error
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)
