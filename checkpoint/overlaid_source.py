"""The files of a model with some of another place in front of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from typing_extensions import override

from .file_version import FileVersion
from .headers import TensorInfo
from .source import Source
from .weight_files import WeightFiles


class OverlaidSource(Source):
    """The files of `behind`, but for those called `in_front`, which are those of `front`.

    Of the files of `behind`, those called `hidden` are left out. The weights are those of `behind`.
    """

    def __init__(self, behind: Source, front: Source, in_front: Collection[str], hidden: Collection[str] = ()):
        self._behind, self._front, self._in_front = behind, front, frozenset(in_front)
        self.reference, self.name = behind.reference, behind.name
        self.repository, self.revision = behind.repository, behind.revision
        rest = {name: facts for name, facts in behind.files.items() if name not in hidden}
        self.files = {**rest, **{name: front.files[name] for name in in_front}}

    def _of(self, filename: str) -> Source:
        return self._front if filename in self._in_front else self._behind

    @override
    def path(self, filename: str) -> Path:
        return self._of(filename).path(filename)

    @override
    def version(self, filename: str) -> FileVersion:
        return self._of(filename).version(filename)

    @override
    def require_unchanged(self, filenames: Iterable[str]) -> None:
        names = set(filenames)
        self._behind.require_unchanged(names - self._in_front)
        self._front.require_unchanged(names & self._in_front)

    @override
    def fetch(self, filenames: Iterable[str]) -> None:
        names = list(filenames)
        self._behind.fetch(name for name in names if name not in self._in_front)
        self._front.fetch(name for name in names if name in self._in_front)

    @override
    def open(self, filename: str) -> IO[bytes]:
        return self._of(filename).open(filename)

    @override
    def is_local(self, filename: str) -> bool:
        return self._of(filename).is_local(filename)

    @override
    def content(self, filename: str, limit: int | None = None) -> bytes:
        return self._of(filename).content(filename, limit)

    @override
    def header(self, filename: str) -> dict[str, TensorInfo]:
        return self._of(filename).header(filename)

    @property
    @override
    def card(self) -> str:
        return self._behind.card

    @property
    @override
    def metadata(self) -> Mapping[str, Any]:
        return self._behind.metadata

    @property
    @override
    def card_problem(self) -> str | None:
        return self._behind.card_problem

    @property
    @override
    def weights(self) -> WeightFiles:
        return self._behind.weights
