"""Archives of torch (zip files around a pickle), held against their own size before anything in them is unpacked.

torch stores the members of its archives as they are. Compressed ones can stand for thousands of times their size, so
that an archive with any is refused; so is a list of members that is larger than the models it could describe.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from typing import IO

from .errors import CorruptCheckpoint
from .size_limits import MB

DIRECTORY = 16 * MB  # bytes of an archive that are read to learn what is in it
MEMBERS = 200_000
PICKLE = 16 * MB  # of names, shapes and offsets; the numbers are members of their own
LEGACY = 512 * MB  # of a file from before torch 1.6, which is one pickle
# Makers that take a number of bytes and fill them; torch's weights-only reader lets them through.
FILLERS = frozenset({"bytearray"})


class Budget(io.RawIOBase):
    """A file of which no more than a number of bytes can be read in all. Raises OSError for more."""

    def __init__(self, file: IO[bytes], budget: int):
        self._file, self._left = file, budget

    def readable(self) -> bool:
        """It is there to be read."""
        return True

    def seekable(self) -> bool:
        """As the file."""
        return True

    def tell(self) -> int:
        """As the file."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As the file."""
        return self._file.seek(offset, whence)

    def read(self, size: int | None = -1) -> bytes:
        """As the file, while the budget lasts."""
        wanted = self._left + 1 if size is None or size < 0 else size
        if wanted > self._left:
            here = self._file.tell()
            wanted = min(wanted, self._file.seek(0, io.SEEK_END) - here)
            self._file.seek(here)
            if wanted > self._left:
                raise OSError("more of the file would be read than its kind takes")
        content = self._file.read(wanted)
        self._left -= len(content)
        return content


def require_archive(file: IO[bytes], where: str) -> None:
    """Raise CorruptCheckpoint for an open file of weights that holds more, once unpacked, than it has bytes."""
    size = file.seek(0, io.SEEK_END)
    if not zipfile.is_zipfile(file):
        if size > LEGACY:
            return  # a file of an old kind: its tensors' bytes follow the pickle, which is read as a stream
        file.seek(0)
        _require_no_fillers(file.read(min(size, PICKLE)), where)
        return
    try:
        with zipfile.ZipFile(Budget(file, DIRECTORY)) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise CorruptCheckpoint(
                    f"{where} is a compressed archive, which torch never writes: it was not unpacked; ask its "
                    "author for safetensors"
                )
            if len(members) > MEMBERS or sum(member.file_size for member in members) > size:
                raise CorruptCheckpoint(f"{where} claims more content than it has bytes: do not trust this model")
            for member in members:
                if member.filename.endswith("data.pkl"):
                    if member.file_size > PICKLE:
                        raise CorruptCheckpoint(
                            f"{where} has a pickle of {member.file_size:,} bytes, and isthmus reads up to {PICKLE:,}: "
                            "ask its author for safetensors"
                        )
                    _require_no_fillers(archive.read(member), where)
    except (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise CorruptCheckpoint(f"{where} is damaged ({str(error)[:100]}): fetch it again") from None


def strings(raw: bytes) -> Iterator[str]:
    """The texts in a pickle, names of what it would call among them; nothing is executed.

    Raises ValueError for what is no pickle.
    """
    for _, argument, _ in pickletools.genops(io.BytesIO(raw)):
        if isinstance(argument, str):
            yield argument


def _require_no_fillers(raw: bytes, where: str) -> None:
    try:
        for text in strings(raw):
            if text.rpartition(" ")[2] in FILLERS:
                raise CorruptCheckpoint(
                    f"{where} holds more than weights ({text[:40]}), and was not executed: ask its author for "
                    "safetensors"
                )
    except (ValueError, EOFError, IndexError, OverflowError):
        return  # an old file goes on after its pickle; torch says what is wrong with any other
