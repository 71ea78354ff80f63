"""The files of one model, on disk or on the Hub: where each is, which version of it is read, and what it holds."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any

from .errors import CorruptCheckpoint, ModelNotFound
from .file_version import FileVersion, opened, require_version
from .front_matter import front_matter
from .headers import TensorInfo, header_from, header_of
from .hub import RemoteFile, Unreachable, fetch_file, read_range
from .listing import UNREACHABLE, Listing, list_files
from .reference import Reference
from .size_limits import CARD_BYTES, DOCUMENT, LARGEST, require_size, require_values
from .small_files import ADAPTER, CONFIGURATION, VOCABULARIES, small_files
from .strict_json import parse_object
from .weight_files import WeightFiles, choose_weight_files, index_names, no_weights

CARD = "README.md"
WEIGHT_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
AT_ONCE = 8  # downloads
REQUEST_BYTES = 2**16  # of a file on the Hub that is read in parts
COMPARED_BYTES = 2**20  # at a time


class Source:
    """The files of one model. Files on the Hub are downloaded when they are asked for, through the cache.

    `files` are those of the model's folder, by name; `repository` is what the Hub says of it.

    Raises ModelNotFound, BadInput or CorruptCheckpoint if they cannot be listed, or one is too large.
    """

    def __init__(self, reference: Reference, listing: Listing | None = None):
        self.reference, self.name = reference, reference.name
        listing = listing or list_files(reference)
        self.files, self.revision, self.repository = listing.files, listing.revision, listing.repository
        self._cut_off, self._versions = listing.cut_off, dict(listing.versions)
        self._require_kind()
        for name, limit in LARGEST.items():
            if name in self.files:
                require_size(self.files[name].size or 0, limit, f"'{name}' of '{self.name}'")

    def _require_kind(self) -> None:
        if CONFIGURATION not in self.files:
            advice = (
                "name it after its base, BASE+ADAPTER"
                if ADAPTER in self.files
                else "give a model saved by transformers"
            )
            raise ModelNotFound(f"'{self.name}' holds no config.json: {advice}")

    @property
    def identity(self) -> tuple[object, ...]:
        """Where the files are, however the model was named."""
        place = self.reference
        if place.directory is not None:
            return (place.directory.resolve(), place.file)
        return (place.repo_id, place.subfolder, place.file, self.revision)

    @property
    def parts(self) -> tuple[Source, ...]:
        """The places that the files come from: this one."""
        return (self,)

    @property
    def permanent_name(self) -> str:
        """The model as others can find it: a Hub id with its revision; a directory by its last name."""
        if self.reference.directory is not None:
            return f"./{self.reference.name}"
        return replace(self.reference, revision=self.revision or self.reference.revision).name

    def path(self, filename: str) -> Path:
        """The local path of a file, downloaded into the cache if the model is on the Hub.

        Raises CorruptCheckpoint for a link that leads out of the model's folder.
        """
        if self.reference.directory is not None:
            path = self.reference.directory / filename
            if path.is_symlink() or (path.parent != self.reference.directory and path.parent.is_symlink()):
                self._require_inside(path)
            return path
        size = self.files[filename].size if filename in self.files else None
        limit = LARGEST.get(filename) if size is None else size
        try:
            return fetch_file(self.reference, filename, self.revision, limit)
        except Unreachable:
            raise self._not_cached(f"'{filename}'") from None

    def version(self, filename: str) -> FileVersion:
        """The version of a file that every read expects: the one that was there when the file was first looked at."""
        if filename not in self._versions:
            self._versions[filename] = FileVersion.of(self.path(filename).stat())
        return self._versions[filename]

    def require_unchanged(self, filenames: Iterable[str]) -> None:
        """Raise CorruptCheckpoint if one of these files has changed since the model was opened."""
        for filename in filenames:
            if self.is_local(filename):
                require_version(self.path(filename), self.version(filename), self.name)

    def _not_cached(self, what: str) -> ModelNotFound:
        return ModelNotFound(
            f"{self._cut_off or UNREACHABLE} and {what} of '{self.name}' is not in the cache: connect, and try again"
        )

    def _require_inside(self, path: Path) -> None:
        assert self.reference.directory is not None
        folder = self.reference.directory.resolve()
        # A snapshot in the Hub's cache consists of links to the blobs beside it.
        caches = [root for root in folder.parents if (root / "snapshots").is_dir() and (root / "blobs").is_dir()]
        target = path.resolve()
        if not any(target.is_relative_to(root) for root in (folder, *caches)):
            raise CorruptCheckpoint(
                f"'{path.name}' of '{self.name}' is a link that leads out of the model's folder: copy the file into it"
            )

    def fetch(self, filenames: Iterable[str]) -> None:
        """Download several files at once, if they exist, so that `path` finds them in the cache."""
        wanted = [name for name in filenames if name in self.files]
        if self.reference.directory is None:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(self.path, wanted))

    def open(self, filename: str) -> IO[bytes]:
        """A file for random access; of a file on the Hub, only the parts that are read are downloaded.

        Reading raises OSError if that fails.
        """
        if self.is_local(filename):
            return self.path(filename).open("rb")
        remote = RemoteFile(partial(self._read_part, filename), self.files[filename].size or 0)
        return io.BufferedReader(remote, REQUEST_BYTES)

    def is_local(self, filename: str) -> bool:
        """Whether a file can be read without the network: it is on disk or in the cache."""
        if self.reference.directory is not None:
            return True
        from huggingface_hub import try_to_load_from_cache

        path = self.reference.path_of(filename)
        cached = try_to_load_from_cache(str(self.reference.repo_id), path, revision=self.revision)
        return isinstance(cached, str)

    def json(self, filename: str) -> dict[str, Any]:
        """The object in a small JSON file. Raises CorruptCheckpoint if it holds anything else, or is too large."""
        where = f"'{filename}' of '{self.name}'"
        return parse_object(require_values(self.content(filename), where), where)

    def text(self, filename: str, errors: str = "strict") -> str:
        """The text of a small file; `errors` as for `bytes.decode`. Raises CorruptCheckpoint if it is too large."""
        return self.content(filename).decode("utf-8", errors)

    def content(self, filename: str, limit: int | None = None) -> bytes:
        """The bytes of a small file, all of one version.

        Raises CorruptCheckpoint if it cannot be read, has changed since, or is larger than `limit` (by default that of
        its kind).
        """
        where = f"'{filename}' of '{self.name}'"
        try:
            path, limit = self.path(filename), limit or LARGEST.get(filename, DOCUMENT)
            version = self.version(filename)
        except OSError as error:
            raise CorruptCheckpoint(f"cannot read {where}: {error.strerror}") from None
        require_size(version.size, limit, where)
        with opened(path, version, self.name) as file:
            return file.read()

    @property
    def has_tokenizer(self) -> bool:
        """Whether there are tokenizer files that can be read without running code."""
        return not self.files.keys().isdisjoint(VOCABULARIES)

    @cached_property
    def card(self) -> str:
        """The text of the model card; empty if there is none, or if it is larger than `CARD_BYTES`."""
        if CARD not in self.files or (self.files[CARD].size or 0) > CARD_BYTES:
            return ""
        return self.content(CARD, CARD_BYTES).decode("utf-8", errors="replace")

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata of the model card (licence, base models, ...): as the Hub parsed it, else from its text."""
        return self.repository.metadata or front_matter(self.card) or {}

    @property
    def card_problem(self) -> str | None:
        """Why the metadata of a card could not be read; None if it was read, or there is no card."""
        if self.repository.metadata or CARD not in self.files:
            return None
        if (self.files[CARD].size or 0) > CARD_BYTES:
            return f"is larger than {CARD_BYTES // 2**20} MB and was not read"
        return "has metadata that cannot be read" if front_matter(self.card) is None else None

    def small_files(self) -> dict[str, Path]:
        """The paths of the files that a merge takes along, by their names within the model's folder."""
        names = small_files(self.files)
        self.fetch(names)
        return {name: self.path(name) for name in names}

    @cached_property
    def weights(self) -> WeightFiles:
        """The files of weights that transformers would read, and those that it would ignore.

        Raises CorruptCheckpoint for missing shards or names that leave the model's folder; ModelNotFound if there are
        no weights.
        """
        named = self.json("config.json").get("transformers_weights")
        chosen = choose_weight_files(self.files, named, self.name)
        if chosen is None and self._cut_off:
            raise self._not_cached("the file with the weights")
        if chosen is None:
            directory = self.reference.directory
            folders = [path.name for path in directory.iterdir() if path.is_dir()] if directory is not None else []
            raise no_weights(self.files, self.name, folders)
        first, ignored = chosen
        if not first.endswith(".json"):
            return WeightFiles((first,), None, ignored)
        shards = index_names(self.json(first), first, self.name)
        for name in shards:
            if name not in self.files and self._cut_off:
                raise self._not_cached(f"'{name}'")
            if name not in self.files:
                raise CorruptCheckpoint(f"'{self.name}' lacks the shard '{name}' that its index names: fetch it again")
        return WeightFiles(shards, first, tuple(name for name in ignored if name not in shards))

    def header(self, filename: str) -> dict[str, TensorInfo]:
        """Names, shapes and dtypes in a safetensors file; from the Hub by range requests, without the weights.

        Raises CorruptCheckpoint if the file is truncated, or its header does not describe it.
        """
        from huggingface_hub import constants

        if self.is_local(filename) or constants.HF_HUB_OFFLINE:
            with opened(self.path(filename), self.version(filename), self.name) as file:
                return header_of(file, f"'{filename}' of '{self.name}'")
        size = self.files[filename].size
        if size is None:
            size = read_range(self.reference, filename, self.revision, 0, 1)[1]
        try:
            return header_from(partial(self._read_part, filename), size, f"'{filename}' of '{self.name}'")
        except Unreachable:
            raise ModelNotFound(f"the Hub cannot be reached for '{self.name}': connect, and try again") from None

    def _read_part(self, filename: str, start: int, stop: int) -> bytes:
        return read_range(self.reference, filename, self.revision, start, stop)[0]


class LooseFiles(Source):
    """The files of a folder that need not hold a model: a tokenizer, or the card beside a GGUF file."""

    def _require_kind(self) -> None:
        pass


def listed_as_equal(a: Source, b: Source, filename: str) -> bool:
    """Whether the Hub lists the same digest for a file of two models."""
    digest = a.files[filename].digest
    return digest is not None and digest == b.files[filename].digest


def same_file(a: Source, b: Source, filename: str) -> bool:
    """Whether a file is the same in two models; by the digests that the Hub lists for both, without a download."""
    if listed_as_equal(a, b, filename):
        return True
    facts_a, facts_b = a.files[filename], b.files[filename]
    if facts_a.size != facts_b.size and facts_a.digest is None and facts_b.digest is None:  # both on disk
        return False
    with a.path(filename).open("rb") as file_a, b.path(filename).open("rb") as file_b:
        while part := file_a.read(COMPARED_BYTES):
            if part != file_b.read(COMPARED_BYTES):
                return False
        return not file_b.read(1)
