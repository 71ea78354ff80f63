"""The files of a model, wherever it is: on disk, or on the Hub through huggingface_hub's own client and cache."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from .download import capped
from .errors import CorruptCheckpoint, IsthmusError, ModelNotFound
from .file_version import FileVersion, changed, opened, require_version, settled
from .front_matter import front_matter
from .headers import TensorInfo, header_from, header_of
from .hub import Unreachable, ask
from .reference import Reference
from .size_limits import (
    CARD_BYTES,
    DOCUMENT,
    LARGEST,
    require_few_files,
    require_regular_file,
    require_size,
    require_sizes,
    require_values,
)
from .small_files import TEMPLATE_FOLDER, VOCABULARIES, is_template, small_files
from .strict_json import parse_object
from .weight_files import WeightFiles, choose_weight_files, index_names, no_weights

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

CARD = "README.md"
WEIGHT_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
VERSIONED = (".json", ".safetensors", ".bin", ".txt", ".jinja", ".md")
AT_ONCE, PART = 8, 2**16
COMPARED = 2**20  # bytes at a time
OFFLINE = "offline mode is on (HF_HUB_OFFLINE)"


@dataclass(frozen=True)
class FileFacts:
    """What is known of a file without reading it: bytes, and on the Hub a digest of its content."""

    size: int | None = None
    digest: str | None = None


@dataclass(frozen=True)
class Repository:
    """What the Hub says of a repository: who may read it. On disk nobody is kept out."""

    gated: bool = False
    private: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Source:
    """The files of one model. Hub files are fetched when asked for, through the cache; nothing else is.

    `files` are those of its folder, by name; `repository` is what the Hub says of it.
    """

    def __init__(self, reference: Reference):
        self.reference, self.name = reference, reference.name
        self.revision: str | None = None
        self._cut_off: str | None = None  # why only what is in the cache is known
        self.repository = Repository()
        self._versions: dict[str, FileVersion] = {}
        self.files = self._local_files(reference.directory) if reference.directory is not None else self._hub_files()
        if "config.json" not in self.files:
            adapter = "adapter_config.json" in self.files
            advice = "merge the adapter into its base model first" if adapter else "give a model saved by transformers"
            raise ModelNotFound(f"'{self.name}' holds no config.json: {advice}")
        require_sizes({name: facts.size for name, facts in self.files.items()}, self.name)

    def _local_files(self, directory: Path) -> dict[str, FileFacts]:
        if not directory.is_dir():
            raise ModelNotFound(f"there is no directory '{self.name}': check the path")
        sizes: dict[str, int] = {}

        def listing() -> dict[str, FileVersion]:
            versions: dict[str, FileVersion] = {}
            sizes.clear()
            for folder in (directory, directory / TEMPLATE_FOLDER):
                if folder.is_dir():
                    self._list(folder, directory, sizes, versions)
            return versions

        try:
            self._versions |= settled(listing, self.name)
        except OSError as error:
            raise ModelNotFound(f"cannot read the directory '{self.name}': {error.strerror}") from None
        return {name: FileFacts(size) for name, size in sorted(sizes.items())}

    def _list(self, folder: Path, directory: Path, sizes: dict[str, int], versions: dict[str, FileVersion]) -> None:
        """Put the sizes and versions of a folder's files down under their names in the model's `directory`."""
        with os.scandir(folder) as entries:
            for entry in entries:
                path = Path(entry.path)
                name = path.relative_to(directory).as_posix()
                try:
                    facts = path.stat()
                except FileNotFoundError:  # a link to nothing, or replaced in this moment
                    if path.is_symlink():
                        continue
                    raise changed(path.name, self.name) from None
                if stat.S_ISREG(facts.st_mode) and (folder == directory or is_template(name)):
                    sizes[name] = facts.st_size
                    require_few_files(sizes, self.name)
                    if name.endswith(VERSIONED):
                        versions[name] = FileVersion.of(facts)
                elif not stat.S_ISREG(facts.st_mode) and not stat.S_ISDIR(facts.st_mode):
                    require_regular_file(path, self.name)

    def _hub_files(self) -> dict[str, FileFacts]:
        from huggingface_hub import HfApi, constants

        repo, prefix = str(self.reference.repo_id), self.reference.subfolder
        depth = len(PurePosixPath(self._within("config.json")).parts) - 1
        found: dict[str, FileFacts] = {}
        if not constants.HF_HUB_OFFLINE:
            try:
                info = ask(
                    self.name,
                    lambda: HfApi().model_info(repo, revision=self.reference.revision, files_metadata=True),
                )
                self.revision = info.sha
                metadata = info.card_data.to_dict() if info.card_data else {}
                self.repository = Repository(bool(info.gated), bool(info.private), metadata)
                require_few_files(info.siblings or (), self.name)
                found = {sibling.rfilename: _facts(sibling) for sibling in info.siblings or []}
                if self._within("config.json") in found:
                    # Asked for by its branch, so that the cache knows, once offline, where the branch pointed.
                    self.revision = self._fetch("config.json", self.reference.revision).parents[depth].name
            except Unreachable as error:
                found = self._cached_files(error)
        else:
            found = self._cached_files(None)
        if prefix is not None:
            inside = {name: facts for name, facts in found.items() if name.startswith(f"{prefix}/")}
            found = {str(PurePosixPath(name).relative_to(prefix)): facts for name, facts in inside.items()}
        return {name: facts for name, facts in found.items() if "/" not in name or is_template(name)}

    def _cached_files(self, error: Unreachable | None) -> dict[str, FileFacts]:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        self._cut_off = why = "the Hub cannot be reached" if error else OFFLINE
        try:
            folder = Path(
                snapshot_download(str(self.reference.repo_id), revision=self.reference.revision, local_files_only=True)
            )
        except (LocalEntryNotFoundError, FileNotFoundError):
            raise ModelNotFound(
                f"{why} and '{self.name}' is not in the cache: connect once, or give a directory"
            ) from None
        self.revision = folder.name
        files = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): FileFacts(path.stat().st_size) for path in files}

    def path(self, filename: str) -> Path:
        """The local path of a file, fetched into the cache when the model is on the Hub.

        Raises CorruptCheckpoint for a link that leads out of the model's folder.
        """
        if self.reference.directory is not None:
            path = self.reference.directory / filename
            if path.is_symlink() or (path.parent != self.reference.directory and path.parent.is_symlink()):
                self._require_inside(path)
            return path
        try:
            return self._fetch(filename, self.revision)
        except Unreachable:
            raise self._not_cached(f"'{filename}'") from None

    def version(self, filename: str) -> FileVersion:
        """The version of a file that is read, now and later: the one that was there when it was first asked for."""
        if filename not in self._versions:
            self._versions[filename] = FileVersion.of(self.path(filename).stat())
        return self._versions[filename]

    def require_unchanged(self, filenames: Iterable[str]) -> None:
        """Raise CorruptCheckpoint when one of these files is not what it was when the model was opened."""
        for filename in filenames:
            if self.is_local(filename):
                require_version(self.path(filename), self.version(filename), self.name)

    def _not_cached(self, what: str) -> ModelNotFound:
        why = self._cut_off or "the Hub cannot be reached"
        return ModelNotFound(f"{why} and {what} of '{self.name}' is not in the cache: connect, and try again")

    def _require_inside(self, path: Path) -> None:
        assert self.reference.directory is not None
        folder = self.reference.directory.resolve()
        # A snapshot in the Hub's cache is made of links to the blobs beside it.
        caches = [root for root in folder.parents if (root / "snapshots").is_dir() and (root / "blobs").is_dir()]
        target = path.resolve()
        if not any(target.is_relative_to(root) for root in (folder, *caches)):
            raise CorruptCheckpoint(
                f"'{path.name}' of '{self.name}' is a link that leads out of the model's folder: put the file there"
            )

    def _fetch(self, filename: str, revision: str | None) -> Path:
        from huggingface_hub import hf_hub_download

        repo, path = str(self.reference.repo_id), self._within(filename)
        return Path(
            ask(self.name, lambda: hf_hub_download(repo, path, revision=revision, tqdm_class=self._cap(filename)))
        )

    def _cap(self, filename: str) -> type[Any] | None:
        """What stops a download that does not end: at the size that the Hub has named, or that its kind may have."""
        files: Mapping[str, FileFacts] = getattr(self, "files", {})
        size = files[filename].size if filename in files else None
        limit = LARGEST.get(filename) if size is None else size
        return None if limit is None else capped(limit, f"'{filename}' of '{self.name}'")

    def fetch(self, filenames: Iterable[str]) -> None:
        """Fetch those of some small files that exist, several at once, so that `path` finds them in the cache."""
        wanted = [name for name in filenames if name in self.files]
        if self.reference.directory is None:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(self.path, wanted))

    def open(self, filename: str) -> IO[bytes]:
        """A file for reading here and there; of one on the Hub only the parts that are read are fetched.

        Raises OSError where they cannot be.
        """
        if self.is_local(filename):
            return self.path(filename).open("rb")
        return io.BufferedReader(_RemoteFile(self, filename), PART)

    def is_local(self, filename: str) -> bool:
        """Whether a file can be read without the network: on disk, or in the cache."""
        if self.reference.directory is not None:
            return True
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(str(self.reference.repo_id), self._within(filename), revision=self.revision)
        return isinstance(cached, str)

    def _within(self, filename: str) -> str:
        return f"{self.reference.subfolder}/{filename}" if self.reference.subfolder else filename

    def json(self, filename: str) -> dict[str, Any]:
        """A small JSON file. Raises CorruptCheckpoint when it is not one, or larger than files of its kind are."""
        where = f"'{filename}' of '{self.name}'"
        return parse_object(require_values(self.content(filename), where), where)

    def text(self, filename: str, errors: str = "strict") -> str:
        """A small text file; `errors` as of `bytes.decode`. Raises CorruptCheckpoint for one that is too large."""
        return self.content(filename).decode("utf-8", errors)

    def content(self, filename: str, limit: int | None = None) -> bytes:
        """A small file, all of one version.

        Raises CorruptCheckpoint when it cannot be read, was changed meanwhile, or is larger than files of its kind are.
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
        """The text of the model card, empty without one, and for one of more than `CARD_BYTES`."""
        if CARD not in self.files or (self.files[CARD].size or 0) > CARD_BYTES:
            return ""
        return self.content(CARD, CARD_BYTES).decode("utf-8", errors="replace")

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata of the model card (licence, base models, ...): as the Hub has read it, else from its text."""
        return self.repository.metadata or front_matter(self.card) or {}

    @property
    def card_problem(self) -> str | None:
        """Why the metadata of the card is not known although there is a card, None where it is or says nothing."""
        if self.repository.metadata or CARD not in self.files:
            return None
        if (self.files[CARD].size or 0) > CARD_BYTES:
            return f"is larger than {CARD_BYTES // 2**20} MB and was not read"
        return "has metadata that cannot be read" if front_matter(self.card) is None else None

    def small_files(self) -> dict[str, Path]:
        """The files that go along with a merge, by their names within the model's folder."""
        names = small_files(self.files)
        self.fetch(names)
        return {name: self.path(name) for name in names}

    @cached_property
    def weights(self) -> WeightFiles:
        """The files that hold the weights, as transformers would choose them, and those beside them that it ignores.

        Raises CorruptCheckpoint for missing shards or names that leave the model's folder; ModelNotFound without
        weights.
        """
        named = self.json("config.json").get("transformers_weights")
        chosen = choose_weight_files(self.files, named, self.name)
        if chosen is None and self._cut_off:
            raise self._not_cached("the file with the weights")
        if chosen is None:
            raise no_weights(self.files, self.name)
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

    def weight_files(self) -> list[str]:
        """The names of the files that hold the weights. Raises as `weights` does."""
        return list(self.weights.files)

    def header(self, filename: str) -> dict[str, TensorInfo]:
        """Names, shapes and dtypes in a safetensors file; over the network by range requests, without the weights.

        Raises CorruptCheckpoint when the file is truncated or the header does not describe it.
        """
        from huggingface_hub import constants

        if self.is_local(filename) or constants.HF_HUB_OFFLINE:
            with opened(self.path(filename), self.version(filename), self.name) as file:
                return header_of(file, f"'{filename}' of '{self.name}'")
        size = self.files[filename].size
        if size is None:
            size = self.read_part(filename, 0, 1)[1]
        try:
            return header_from(
                lambda start, stop: self.read_part(filename, start, stop)[0], size, f"'{filename}' of '{self.name}'"
            )
        except Unreachable:
            raise ModelNotFound(f"the Hub cannot be reached for '{self.name}': connect, and try again") from None

    def read_part(self, filename: str, start: int, stop: int) -> tuple[bytes, int]:
        """The bytes from `start` to `stop` of a file on the Hub, and how many it has; never more than these."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        url = hf_hub_url(str(self.reference.repo_id), self._within(filename), revision=self.revision)
        headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}

        def read() -> tuple[bytes, int]:
            with get_session().stream("GET", url, headers=headers) as response:
                hf_raise_for_status(response)
                found = b""
                for part in response.iter_raw():
                    found += part
                    if len(found) >= stop - start:
                        break
                total = response.headers.get("Content-Range", "").rpartition("/")[2]
                if response.status_code != 206 or not total.isdigit():
                    raise CorruptCheckpoint(f"'{filename}' of '{self.name}' cannot be read in part: fetch the model")
                return found[: stop - start], int(total)

        return ask(self.name, read)


class _RemoteFile(io.RawIOBase):
    """A file on the Hub, read by range requests."""

    def __init__(self, source: Source, filename: str):
        self._source, self._filename, self._place = source, filename, 0
        self._size = source.files[filename].size or 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        stop = min(self._size, self._place + len(buffer))
        if stop <= self._place:
            return 0
        try:
            found = self._source.read_part(self._filename, self._place, stop)[0]
        except (Unreachable, IsthmusError) as error:
            raise OSError(str(error)) from error
        buffer[: len(found)] = found
        self._place += len(found)
        return len(found)


def _facts(sibling: RepoSibling) -> FileFacts:
    if sibling.lfs is not None:
        return FileFacts(sibling.lfs.size, f"sha256:{sibling.lfs.sha256}")
    return FileFacts(sibling.size, f"git:{sibling.blob_id}" if sibling.blob_id else None)


def same_file(a: Source, b: Source, filename: str) -> bool:
    """Whether a file is the same in two models; when the Hub knows both, by their digests, without fetching them."""
    known = a.files[filename].digest
    if known is not None and known == b.files[filename].digest:
        return True
    if a.files[filename].size != b.files[filename].size and known is None and b.files[filename].digest is None:
        return False  # both on disk
    with a.path(filename).open("rb") as mine, b.path(filename).open("rb") as other:
        while part := mine.read(COMPARED):
            if part != other.read(COMPARED):
                return False
        return not other.read(1)
