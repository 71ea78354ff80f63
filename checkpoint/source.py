"""The files of a model, wherever it is: on disk, or on the Hub through huggingface_hub's own client and cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from isthmus.checkpoint.errors import BadInput, CorruptCheckpoint, ModelNotFound
from isthmus.checkpoint.headers import TensorInfo, read_header
from isthmus.checkpoint.reference import Reference

SMALL_FILES = (
    "config.json",
    "generation_config.json",
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

T = TypeVar("T")


class Source:
    """The files of one model. Hub files are fetched when asked for, through the cache; nothing else is."""

    def __init__(self, reference: Reference):
        self.reference, self.name = reference, reference.name
        self.revision: str | None = None
        if reference.directory is not None:
            self.files = self._local_files(reference.directory)
        else:
            self.files = self._hub_files()
        if "config.json" not in self.files:
            raise ModelNotFound(
                f"'{self.name}' holds no config.json: give a model saved by transformers' save_pretrained"
            )

    def _local_files(self, directory: Path) -> set[str]:
        if not directory.is_dir():
            raise ModelNotFound(f"there is no directory '{directory.name}': check the path")
        return {path.name for path in directory.iterdir() if path.is_file()}

    def _hub_files(self) -> set[str]:
        from huggingface_hub import HfApi, constants

        repo, prefix = self.reference.repo_id, self.reference.subfolder
        depth = len(PurePosixPath(self._within("config.json")).parts) - 1
        names: list[str] = []
        if not constants.HF_HUB_OFFLINE:
            try:
                info = _translated(self.name, lambda: HfApi().model_info(str(repo), revision=self.reference.revision))
                self.revision = info.sha
                names = [sibling.rfilename for sibling in info.siblings or []]
                if self._within("config.json") in names:
                    # Asked for by its branch, so that the cache knows, once offline, where the branch pointed.
                    self.revision = self._fetch("config.json", self.reference.revision).parents[depth].name
            except _Unreachable as error:
                names = self._cached_files(error)
        else:
            names = self._cached_files(None)
        if prefix is not None:
            names = [str(PurePosixPath(n).relative_to(prefix)) for n in names if n.startswith(f"{prefix}/")]
        return {name for name in names if "/" not in name}

    def _cached_files(self, error: _Unreachable | None) -> list[str]:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        why = "the Hub cannot be reached" if error else "offline mode is on (HF_HUB_OFFLINE)"
        try:
            folder = Path(
                snapshot_download(str(self.reference.repo_id), revision=self.reference.revision, local_files_only=True)
            )
        except (LocalEntryNotFoundError, FileNotFoundError):
            raise ModelNotFound(
                f"{why} and '{self.name}' is not in the cache: connect once, or give a directory"
            ) from None
        self.revision = folder.name
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]

    def path(self, filename: str) -> Path:
        """The local path of a file, fetched into the cache when the model is on the Hub."""
        if self.reference.directory is not None:
            return self.reference.directory / filename
        try:
            return self._fetch(filename, self.revision)
        except _Unreachable:
            raise ModelNotFound(
                f"the Hub cannot be reached and '{filename}' of '{self.name}' is not in the cache: "
                "connect, and try again"
            ) from None

    def _fetch(self, filename: str, revision: str | None) -> Path:
        from huggingface_hub import hf_hub_download

        repo, path = str(self.reference.repo_id), self._within(filename)
        return Path(_translated(self.name, lambda: hf_hub_download(repo, path, revision=revision)))

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
        """A small JSON file. Raises CorruptCheckpoint when it is not one."""
        try:
            content = json.loads(self.path(filename).read_text(encoding="utf-8"))
        except (ValueError, UnicodeDecodeError):
            content = None
        if not isinstance(content, dict):
            raise CorruptCheckpoint(f"'{filename}' of '{self.name}' is not valid JSON: fetch it again") from None
        return content

    def small_files(self) -> dict[str, Path]:
        """Config, tokenizer and generation files that exist, by name."""
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
                names = sorted(set(shards.values()))
                for name in names:
                    if not isinstance(name, str) or PurePosixPath(name).name != name or name in ("", ".", ".."):
                        raise CorruptCheckpoint(f"'{index}' of '{self.name}' names a shard outside the model: {name!r}")
                    if name not in self.files:
                        raise CorruptCheckpoint(
                            f"'{self.name}' lacks the shard '{name}' that its index names: fetch it again"
                        )
                return names
            if single in self.files:
                return [single]
        raise ModelNotFound(
            f"'{self.name}' holds no weights: expected model.safetensors or pytorch_model.bin, or their index"
        )

    def header(self, filename: str) -> dict[str, TensorInfo]:
        """Names, shapes and dtypes in a safetensors file; over the network by range requests, without the weights."""
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import SafetensorsParsingError

        if self.is_local(filename) or constants.HF_HUB_OFFLINE:
            return read_header(self.path(filename), self.name)
        try:
            metadata = _translated(
                self.name,
                lambda: HfApi().parse_safetensors_file_metadata(
                    str(self.reference.repo_id), self._within(filename), revision=self.revision
                ),
            )
        except SafetensorsParsingError:
            raise CorruptCheckpoint(f"the header of '{filename}' of '{self.name}' is damaged") from None
        except _Unreachable:
            raise ModelNotFound(f"the Hub cannot be reached for '{self.name}': connect, and try again") from None
        return {name: TensorInfo(str(info.dtype), tuple(info.shape)) for name, info in metadata.tensors.items()}


class _Unreachable(Exception):
    """The Hub did not answer at all."""


def _translated(name: str, call: Callable[[], T]) -> T:
    """The result of a Hub call; its errors become one sentence each, an absent network becomes `_Unreachable`."""
    from huggingface_hub import errors

    try:
        return call()
    except errors.GatedRepoError:
        raise ModelNotFound(
            f"'{name}' is gated: accept its terms on the Hub, then log in with 'hf auth login'"
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelNotFound(f"'{name}' has no such revision: check what follows the @") from None
    except errors.RepositoryNotFoundError:
        raise ModelNotFound(
            f"there is no model '{name}' on the Hub, or it is private: check the spelling, or log in with "
            "'hf auth login'"
        ) from None
    except errors.LocalEntryNotFoundError as error:
        raise _Unreachable from error
    except errors.EntryNotFoundError:
        raise ModelNotFound(f"a file of '{name}' is missing on the Hub") from None
    except errors.HFValidationError:
        raise BadInput(f"'{name}' is not a valid Hub id") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise ModelNotFound(f"the Hub refused access to '{name}' ({status}): log in with 'hf auth login'") from None
        raise ModelNotFound(f"the Hub answered {status} for '{name}': try again later") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0].startswith("httpx") or isinstance(
            error, (ConnectionError, TimeoutError)
        ):
            raise _Unreachable from error
        raise
