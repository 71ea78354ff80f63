"""Archives of torch (zip files around a pickle), checked against their own size before anything in them is unpacked.

torch does not compress the members of its archives. A compressed member can unpack to thousands of times its size, so
an archive that has one is refused. So is an archive with more members than any model has tensors.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from typing import IO

from .errors import CorruptCheckpoint
from .size_limits import MB

DIRECTORY = 16 * MB  # bytes of an archive that are read for its list of members
MEMBERS = 200_000
PICKLE = 16 * MB  # of names, shapes and offsets; the values are separate members
LEGACY = 512 * MB  # of a file written before torch 1.6, which is one pickle
# Callables that allocate as many bytes as they are told; torch's weights-only reader allows them.
FILLERS = frozenset({"bytearray"})


class Budget(io.RawIOBase):
    """A file of which at most `budget` bytes can be read in total. Reading more raises OSError."""

    def __init__(self, file: IO[bytes], budget: int):
        self._file, self._left = file, budget

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Always true."""
        return True

    def tell(self) -> int:
        """The position in the file."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, which costs nothing."""
        return self._file.seek(offset, whence)

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes. Raises OSError if they exceed what is left of the budget."""
        wanted = self._left + 1 if size is None or size < 0 else size
        if wanted > self._left:
            position = self._file.tell()
            wanted = min(wanted, self._file.seek(0, io.SEEK_END) - position)
            self._file.seek(position)
            if wanted > self._left:
                raise OSError("the file is larger inside than files of its kind are")
        content = self._file.read(wanted)
        self._left -= len(content)
        return content


def require_archive(file: IO[bytes], where: str) -> None:
    """Raise CorruptCheckpoint for an open file of weights that would unpack to more bytes than it has."""
    size = file.seek(0, io.SEEK_END)
    if not zipfile.is_zipfile(file):
        if size > LEGACY:
            return  # an old format: the bytes of the tensors follow the pickle, and are read as a stream
        file.seek(0)
        _require_no_fillers(file.read(min(size, PICKLE)), where)
        return
    try:
        with zipfile.ZipFile(Budget(file, DIRECTORY)) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise CorruptCheckpoint(
                    f"{where} is a compressed archive, which torch never writes, and was not unpacked: ask "
                    "its author for safetensors"
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
    """The texts in a pickle, including the names of what it would call. Nothing is executed.

    Raises ValueError if the bytes are not a pickle.
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
        return  # an old file continues after its pickle; torch reports what is wrong with any other
