"""References to models: a directory, or a Hub id with an optional revision and subfolder."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from .errors import BadInput
from .untrusted_text import plain

_HUB_ID = re.compile(
    r"^(?P<repo>[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)(?:@(?P<revision>[^:@\s]+))?(?::(?P<subfolder>[^@\s]+))?$"
)


@dataclass(frozen=True)
class Reference:
    """A model in a directory on disk, or in a repository on the Hub."""

    directory: Path | None = None
    repo_id: str | None = None
    revision: str | None = None
    subfolder: str | None = None

    @property
    def name(self) -> str:
        """The name of the model in messages, reports and cards; for a directory, its last part only."""
        if self.directory is not None:
            return plain(shown_name(self.directory))
        name = str(self.repo_id)
        if self.revision:
            name += f"@{self.revision}"
        return f"{name}:{self.subfolder}" if self.subfolder else name

    def path_of(self, filename: str) -> str:
        """The path within the repository of a file in the model's folder."""
        return f"{self.subfolder}/{filename}" if self.subfolder else filename


def shown_name(path: Path) -> str:
    """The last part of a path as valid text; bytes that are not UTF-8 are replaced."""
    return os.fsencode(Path(os.path.realpath(path)).name).decode("utf-8", errors="replace")


def require_path(text: str | Path, what: str) -> Path:
    """The path in `text`, with `~` expanded; `what` names it in messages: "the output", "the model".

    Raises BadInput for a path that is too long, or that holds a NUL.
    """
    written = str(text)
    try:
        path = Path(written).expanduser()
        path.stat()
    except FileNotFoundError:
        return path
    except ValueError:
        raise BadInput(f"{what} {written[:60]!a} holds a character that no path can have: check it") from None
    except RuntimeError:
        raise BadInput(f"{what} '{written[:60]}' begins with the home of an unknown user: check it") from None
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.EACCES, errno.ELOOP):  # opening it reports that
            return path
        reason = "is too long for a path" if error.errno == errno.ENAMETOOLONG else f"cannot be read: {error.strerror}"
        raise BadInput(f"{what} '{written[:60]}{'...' * (len(written) > 60)}' {reason}") from None
    return path


def parse_reference(text: str | Path) -> Reference:
    """Read ``directory``, ``user/model``, ``user/model@revision`` or ``user/model:subfolder``.

    A text that starts with ``.``, ``/`` or ``~``, or exists on disk, is a directory; no network call is made.

    Raises BadInput if it is neither a directory nor a valid id.
    """
    written = str(text)
    path = require_path(written, "the model")
    if isinstance(text, Path) or written.startswith((".", "/", "~")) or (written and path.exists()):
        if path.is_file():
            raise BadInput(f"'{path.name}' is a file: give the directory that holds the model's config.json")
        return Reference(directory=path)
    match = _HUB_ID.match(written)
    if match is None or ".." in written:
        raise BadInput(
            f"'{written}' is neither a directory nor a Hub id: write './dir', 'user/model', 'user/model@revision' or "
            "'user/model:subfolder'"
        )
    return Reference(repo_id=match["repo"], revision=match["revision"], subfolder=match["subfolder"])
