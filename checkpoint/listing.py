"""The files of a model by name, before any is read: on disk, in a repository on the Hub, or offline in its cache."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from .errors import ModelNotFound
from .file_version import FileVersion, changed, settled
from .hub import Unreachable, ask, fetch_file
from .reference import Reference
from .size_limits import LARGEST, require_few_files, require_regular_file
from .small_files import CONFIGURATION, TEMPLATE_FOLDER, is_template

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

VERSIONED = (".json", ".safetensors", ".bin", ".txt", ".jinja", ".md")
OFFLINE = "offline mode is on (HF_HUB_OFFLINE)"
UNREACHABLE = "the Hub cannot be reached"


@dataclass(frozen=True)
class FileFacts:
    """What a listing says of a file: its size in bytes, and on the Hub a digest of its content."""

    size: int | None = None
    digest: str | None = None


@dataclass(frozen=True)
class Repository:
    """What the Hub says of a repository: who may read it, and its card's metadata. A directory has the defaults."""

    gated: bool = False
    private: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """The `files` of a model's folder by name.

    `revision` is the commit on the Hub, `versions` are those of files on disk. `cut_off` says why only the cache was
    listed, None if the Hub was.
    """

    files: Mapping[str, FileFacts]
    revision: str | None = None
    repository: Repository = field(default_factory=Repository)
    versions: Mapping[str, FileVersion] = field(default_factory=dict)
    cut_off: str | None = None


def list_files(reference: Reference) -> Listing:
    """The files of a directory or a repository. Raises ModelNotFound, BadInput or CorruptCheckpoint."""
    if reference.directory is not None:
        return _list_directory(reference.directory, reference.name)
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return _list_cache(reference, OFFLINE)
    try:
        return _list_repository(reference)
    except Unreachable:
        return _list_cache(reference, UNREACHABLE)


def _list_directory(directory: Path, model: str) -> Listing:
    if not directory.is_dir():
        raise ModelNotFound(f"there is no directory '{model}': check the path")
    versions: dict[str, FileVersion] = {}

    def list_once() -> dict[str, FileVersion]:
        versions.clear()
        for folder in (directory, directory / TEMPLATE_FOLDER):
            for name, version in _scan(folder, directory, model) if folder.is_dir() else ():
                versions[name] = version
                require_few_files(versions, model)
        return {name: version for name, version in versions.items() if name.endswith(VERSIONED)}

    try:
        expected = settled(list_once, model)
    except OSError as error:
        raise ModelNotFound(f"cannot read the directory '{model}': {error.strerror}") from None
    return Listing({name: FileFacts(version.size) for name, version in sorted(versions.items())}, versions=expected)


def _scan(folder: Path, directory: Path, model: str) -> Iterator[tuple[str, FileVersion]]:
    """The versions of a folder's files, by their names within the model's `directory`."""
    with os.scandir(folder) as entries:
        for path in map(Path, entries):
            name = path.relative_to(directory).as_posix()
            try:
                status = path.stat()
            except FileNotFoundError:  # a dangling link, or a file that is being replaced
                if path.is_symlink():
                    continue
                raise changed(path.name, model) from None
            if stat.S_ISREG(status.st_mode) and (folder == directory or is_template(name)):
                yield name, FileVersion.of(status)
            elif not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
                require_regular_file(path, model)


def _list_repository(reference: Reference) -> Listing:
    """The files on the Hub. Raises Unreachable without a network."""
    from huggingface_hub import HfApi

    repo = str(reference.repo_id)
    info = ask(reference.name, lambda: HfApi().model_info(repo, revision=reference.revision, files_metadata=True))
    metadata = info.card_data.to_dict() if info.card_data else {}
    require_few_files(info.siblings or (), reference.name)
    files = {sibling.rfilename: _file_facts(sibling) for sibling in info.siblings or []}
    revision, configuration = info.sha, reference.path_of(CONFIGURATION)
    if configuration in files:
        # Fetched by the name of the branch: offline, the cache then knows to which commit the branch pointed.
        path = fetch_file(reference, CONFIGURATION, reference.revision, LARGEST[CONFIGURATION])
        revision = path.parents[len(PurePosixPath(configuration).parts) - 1].name
    repository = Repository(bool(info.gated), bool(info.private), metadata)
    return Listing(_in_folder(files, reference), revision, repository)


def _list_cache(reference: Reference, cut_off: str) -> Listing:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(str(reference.repo_id), revision=reference.revision, local_files_only=True))
    except (LocalEntryNotFoundError, FileNotFoundError):
        raise ModelNotFound(
            f"{cut_off} and '{reference.name}' is not in the cache: connect once, or give a directory"
        ) from None
    paths = (path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): FileFacts(path.stat().st_size) for path in paths}
    return Listing(_in_folder(files, reference), folder.name, cut_off=cut_off)


def _in_folder(files: Mapping[str, FileFacts], reference: Reference) -> dict[str, FileFacts]:
    """The files of the model's folder, of those in the whole repository."""
    prefix = f"{reference.subfolder}/" if reference.subfolder is not None else ""
    inside = {name.removeprefix(prefix): facts for name, facts in files.items() if name.startswith(prefix)}
    return {name: facts for name, facts in inside.items() if "/" not in name or is_template(name)}


def _file_facts(sibling: RepoSibling) -> FileFacts:
    if sibling.lfs is not None:
        return FileFacts(sibling.lfs.size, f"sha256:{sibling.lfs.sha256}")
    return FileFacts(sibling.size, f"git:{sibling.blob_id}" if sibling.blob_id else None)
