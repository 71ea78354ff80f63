"""References to models: a directory, or a Hub id with an optional revision and subfolder; ``base+adapter``."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import BadInput
from .untrusted_text import plain

_HUB_ID = re.compile(
    r"^(?P<repo>[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)(?:@(?P<revision>[^:@\s]+))?(?::(?P<subfolder>[^@\s]+))?$"
)

GGUF = ".gguf"


@dataclass(frozen=True)
class Reference:
    """A model in a directory on disk, or in a repository on the Hub; in one `file` of it, if it is GGUF. With an
    `adapter`, the model that adapts it.
    """

    directory: Path | None = None
    repo_id: str | None = None
    revision: str | None = None
    subfolder: str | None = None
    adapter: Reference | None = None
    file: str | None = None

    @property
    def name(self) -> str:
        """The name of the model in messages, reports and cards; for a directory, its last part only."""
        if self.adapter is not None:
            return f"{self.base.name}+{self.adapter.name}"
        if self.directory is not None:
            return plain(self.file or shown_name(self.directory))
        name = str(self.repo_id)
        if self.revision:
            name += f"@{self.revision}"
        inside = "/".join(filter(None, (self.subfolder, self.file)))
        return f"{name}:{inside}" if inside else name

    @property
    def base(self) -> Reference:
        """The model without its adapter."""
        return replace(self, adapter=None)

    @property
    def parts(self) -> tuple[Reference, ...]:
        """The directories or repositories that the model is in: its own, and that of its adapter."""
        return (self,) if self.adapter is None else (self.base, self.adapter)

    @property
    def on_hub(self) -> bool:
        """Whether all of the model is on the Hub."""
        return all(part.directory is None for part in self.parts)

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
    """Read ``directory``, ``user/model``, ``user/model@revision``, ``user/model:subfolder``, or two of these joined by
    ``+``: a base model and the adapter that is applied to it.

    The name of a GGUF file stands in place of its directory, or of a subfolder.

    A text that starts with ``.``, ``/`` or ``~``, or exists on disk, is a directory; no network call is made. A ``+``
    in the name of a directory that exists joins nothing.

    Raises BadInput if it is neither a directory nor a valid id.
    """
    written = str(text)
    if not isinstance(text, Path) and "+" in written and not require_path(written, "the model").exists():
        return _adapted(written)
    return _unadapted(text)


def _unadapted(text: str | Path) -> Reference:
    """A reference to a model in one place."""
    written = str(text)
    path = require_path(written, "the model")
    if isinstance(text, Path) or written.startswith((".", "/", "~")) or (written and path.exists()):
        if path.is_file() and path.suffix == GGUF:
            return Reference(directory=path.parent, file=path.name)
        if path.is_file():
            raise BadInput(f"'{path.name}' is a file: give the directory that holds the model's config.json")
        return Reference(directory=path)
    if written.endswith(GGUF) and ":" not in written:
        raise BadInput(
            f"there is no file '{plain(written, 100)}': check the path, or write user/model:FILE for the Hub"
        )
    match = _HUB_ID.match(written)
    if match is None or ".." in written:
        raise BadInput(
            f"'{written}' is neither a directory nor a Hub id: write './dir', 'user/model', 'user/model@revision' or "
            "'user/model:subfolder', and 'base+adapter' for an adapter"
        )
    folder, file = match["subfolder"], None
    if folder is not None and folder.endswith(GGUF):
        folder, _, file = folder.rpartition("/")
    return Reference(repo_id=match["repo"], revision=match["revision"], subfolder=folder or None, file=file)


def _adapted(written: str) -> Reference:
    """A base and an adapter, joined by the first ``+`` that leaves a model on both sides.

    A part that looks like a directory and does not exist is taken only where no ``+`` leaves two that can be.
    """
    candidates = []
    for place in (place for place, letter in enumerate(written) if letter == "+"):
        try:
            base, adapter = _unadapted(written[:place]), _unadapted(written[place + 1 :])
        except BadInput:
            continue
        if _HUB_ID.match(written) and adapter.directory is None and "/" not in written[place + 1 :]:
            continue  # a revision or a folder with a + in its name
        plausible = all("+" not in str(part.directory or "") or _exists(part) for part in (base, adapter))
        candidates += [replace(base, adapter=adapter)] if plausible else []
    if not candidates and _HUB_ID.match(written):
        return _unadapted(written)
    if not candidates:
        raise BadInput(
            f"'{written}' is neither a directory nor 'base+adapter', a base model and one adapter: check the spelling, "
            "and merge several adapters as several models"
        )
    return next((one for one in candidates if all(map(_exists, one.parts))), candidates[0])


def _exists(reference: Reference) -> bool:
    return reference.directory is None or (reference.directory / (reference.file or "")).exists()
