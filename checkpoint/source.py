"""The files of a model, wherever it is: on disk, or on the Hub through huggingface_hub's own client and cache."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from isthmus.checkpoint.errors import CorruptCheckpoint, IsthmusError, ModelNotFound
from isthmus.checkpoint.finite import NotFinite, finite_json
from isthmus.checkpoint.headers import TensorInfo, header_from, read_header
from isthmus.checkpoint.hub import Unreachable, ask
from isthmus.checkpoint.reference import Reference

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

CARD = "README.md"
TOKENIZER_FILES = frozenset({"tokenizer.json", "vocab.json"})
CONFIGURATION_FILES = ("config.json", "generation_config.json")
SMALL_FILES = (
    *CONFIGURATION_FILES,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
WEIGHT_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
AT_ONCE, PART = 8, 2**16
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
        self.files = self._local_files(reference.directory) if reference.directory is not None else self._hub_files()
        if "config.json" not in self.files:
            adapter = "adapter_config.json" in self.files
            advice = "merge the adapter into its base model first" if adapter else "give a model saved by transformers"
            raise ModelNotFound(f"'{self.name}' holds no config.json: {advice}")

    def _local_files(self, directory: Path) -> dict[str, FileFacts]:
        if not directory.is_dir():
            raise ModelNotFound(f"there is no directory '{directory.name}': check the path")
        return {path.name: FileFacts(path.stat().st_size) for path in directory.iterdir() if path.is_file()}

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
        return {name: facts for name, facts in found.items() if "/" not in name}

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
            if path.is_symlink():
                self._require_inside(path)
            return path
        try:
            return self._fetch(filename, self.revision)
        except Unreachable:
            raise self._not_cached(f"'{filename}'") from None

    def _not_cached(self, what: str) -> ModelNotFound:
        why = self._cut_off or "the Hub cannot be reached"
        return ModelNotFound(f"{why} and {what} of '{self.name}' is not in the cache: connect, and try again")

    def _require_inside(self, path: Path) -> None:
        folder = path.parent.resolve()
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
        return Path(ask(self.name, lambda: hf_hub_download(repo, path, revision=revision)))

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
        """A small JSON file. Raises CorruptCheckpoint when it is not one, or holds NaN or Infinity."""
        try:
            content = finite_json(self.path(filename).read_text(encoding="utf-8"))
        except NotFinite as error:
            raise CorruptCheckpoint(
                f"'{filename}' of '{self.name}' holds {error}, which no JSON file may: correct it"
            ) from None
        except (ValueError, UnicodeDecodeError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise CorruptCheckpoint(f"'{filename}' of '{self.name}' is not valid JSON: fetch it again") from None
        return content

    @property
    def has_tokenizer(self) -> bool:
        """Whether there are tokenizer files that can be read without running code."""
        return not TOKENIZER_FILES.isdisjoint(self.files)

    @cached_property
    def card(self) -> str:
        """The text of the model card, empty without one."""
        if CARD not in self.files:
            return ""
        return self.path(CARD).read_text(encoding="utf-8", errors="replace")

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata of the model card (licence, base models, ...): as the Hub has read it, else from its text."""
        if self.repository.metadata or not self.card:
            return self.repository.metadata
        from huggingface_hub import ModelCard

        try:
            return dict(ModelCard(self.card, ignore_metadata_errors=True).data.to_dict())
        except Exception:  # what a stranger wrote there may be no YAML, or no metadata
            return {}

    def small_files(self) -> dict[str, Path]:
        """Config, tokenizer and generation files that exist, by name."""
        self.fetch(SMALL_FILES)
        return {name: self.path(name) for name in SMALL_FILES if name in self.files}

    def weight_files(self) -> list[str]:
        """The files that hold the weights: safetensors before pickles, in one file or in shards.

        Raises CorruptCheckpoint for missing shards or shard names that leave the model's folder; ModelNotFound
        without weights.
        """
        for index, single in zip(WEIGHT_INDEXES, WEIGHT_FILES, strict=True):
            if index in self.files:
                shards = self.json(index).get("weight_map")
                if not isinstance(shards, dict) or not shards:
                    raise CorruptCheckpoint(f"'{index}' of '{self.name}' has no weight_map: fetch it again")
                for name in shards.values():
                    if not isinstance(name, str) or PurePosixPath(name).name != name or name in ("", ".", ".."):
                        raise CorruptCheckpoint(f"'{index}' of '{self.name}' names a shard outside the model: {name!r}")
                    if name not in self.files and self._cut_off:
                        raise self._not_cached(f"'{name}'")
                    if name not in self.files:
                        raise CorruptCheckpoint(
                            f"'{self.name}' lacks the shard '{name}' that its index names: fetch it again"
                        )
                return sorted(set(shards.values()))
            if single in self.files:
                return [single]
        if self._cut_off:
            raise self._not_cached("the file with the weights")
        raise ModelNotFound(
            f"'{self.name}' holds no weights: expected model.safetensors or pytorch_model.bin, or their index"
        )

    def header(self, filename: str) -> dict[str, TensorInfo]:
        """Names, shapes and dtypes in a safetensors file; over the network by range requests, without the weights.

        Raises CorruptCheckpoint when the file is truncated or the header does not describe it.
        """
        from huggingface_hub import constants

        if self.is_local(filename) or constants.HF_HUB_OFFLINE:
            return read_header(self.path(filename), self.name)
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
    return a.path(filename).read_bytes() == b.path(filename).read_bytes()
