"""Files of a repository on the Hub: whole through huggingface_hub's cache, or in parts by range requests."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import CorruptCheckpoint, IsthmusError
from .hub import Unreachable, ask
from .reference import Reference


def fetch_file(reference: Reference, filename: str, revision: str | None, limit: int | None) -> Path:
    """The path of a file in the cache, downloaded first if it is not there; at most `limit` bytes, if there is a limit.

    Raises CorruptCheckpoint for more bytes, and what `isthmus.checkpoint.hub.ask` raises.
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

    Raises CorruptCheckpoint if the server sends no parts of files, and what `isthmus.checkpoint.hub.ask` raises.
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
