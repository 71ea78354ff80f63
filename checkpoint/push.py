"""Pushing a merge to the Hub: in one commit, or not at all.

huggingface_hub uploads large files first, and the Hub stores them; the commit that names them comes last. So an
interrupted push changes nothing that others see, and repeating it continues where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .card import FIGURE
from .errors import IsthmusError
from .hub import status_of
from .manifest import REPORT
from .push_target import PushTarget, ask_for_push, look_up
from .redaction import redact
from .small_files import ADAPTER, SMALL_FILES
from .upload_check import OutputFile, read_output

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from huggingface_hub.hf_api import RepoSibling

# Files that may remain from another model in the repository, and that would be loaded with the new one.
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*")
MODEL_FILES = (*SMALL_FILES, ADAPTER, *WEIGHTS, REPORT, FIGURE, "report.html")
REFUSED = frozenset({429, 503})  # statuses with which the Hub has done nothing


@dataclass(frozen=True)
class Pushed:
    """The result of a push: the address to look at, and the commit."""

    url: str
    commit: str | None
    pull_request: str | None = None


@dataclass(frozen=True)
class PushPlan:
    """What a push will do: the `files` of the merge, those that are `changed`, and those that it removes (`stale`)."""

    target: PushTarget
    files: tuple[OutputFile, ...]
    changed: tuple[OutputFile, ...]
    stale: tuple[str, ...]

    def __str__(self) -> str:
        if not self.changed and not self.stale:
            return f"change nothing in {self.target.repo_id}"
        size = sum(file.size for file in self.changed)
        steps = [f"send {len(self.changed)} files ({size:,} bytes) to {self.target.repo_id} in one commit"]
        if self.target.new:
            steps.insert(0, f"create the branch {self.target.revision}")
        if self.target.info is None:
            kind = "private" if self.target.private else "public"
            steps.insert(0, f"create the {kind} repository {self.target.repo_id}")
        if self.target.create_pr:
            steps.append("as a pull request")
        return ", ".join(steps)

    def to_dict(self, pushed: Pushed | None) -> dict[str, Any]:
        """The plan and its result (None for a dry run) as JSON-ready data."""
        return {
            "schema": 1,
            "command": "push",
            "repo": self.target.repo_id,
            "revision": self.target.revision or "main",
            "dry_run": pushed is None,
            "creates_repository": self.target.info is None,
            "files": [{"name": f.name, "bytes": f.size, "changed": f in self.changed} for f in self.files],
            "removes": list(self.stale),
            **(asdict(pushed) if pushed else {"url": None, "commit": None, "pull_request": None}),
        }

    def carry_out(self, message: str | None = None) -> Pushed:
        """Create the repository or branch if it is missing, upload, commit. Files that have arrived are not sent again.

        Raises IsthmusError if the upload fails; no file in the repository has then changed.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        target, api = self.target, HfApi()
        ask = partial(ask_for_push, target.repo_id)
        url = redact(f"{api.endpoint}/{target.repo_id}")
        if not self.changed and not self.stale:
            return Pushed(url, target.info.sha if target.info else None)
        if target.info is None:
            ask(partial(api.create_repo, target.repo_id, private=target.private or None, exist_ok=True))
        if target.new:
            ask(partial(api.create_branch, target.repo_id, branch=str(target.revision), exist_ok=True))
        additions = [CommitOperationAdd(file.name, file.path) for file in self.changed]
        removals = [CommitOperationDelete(name) for name in self.stale]
        place: dict[str, Any] = {"revision": target.revision, "create_pr": target.create_pr}
        send = partial(
            api.create_commit,
            target.repo_id,
            [*additions, *removals],
            commit_message=message or "Merge made with isthmus",
            **place,
            parent_commit=target.info.sha if target.info and not target.create_pr else None,
        )
        ask(partial(api.preupload_lfs_files, target.repo_id, additions, free_memory=False, **place))
        commit = self._commit(send)
        address = redact(commit.pr_url) if commit.pr_url else None
        return Pushed(address or url, commit.oid, address)

    def _commit(self, send: Callable[[], CommitInfo]) -> CommitInfo:
        """Send the commit. If the answer was lost, look whether the commit was made before it is sent again."""
        from huggingface_hub import CommitInfo

        target, lost = self.target, False

        def once() -> CommitInfo:
            nonlocal lost
            if lost:
                if target.create_pr:
                    raise IsthmusError(
                        f"the connection to '{target.repo_id}' broke while the pull request was opened: look whether "
                        "it is there before you try again"
                    )
                now = look_up(target.repo_id, target.revision)
                if now is not None and not _differing(self.files, now.siblings or []):
                    url = f"{target.repo_id}/commit/{now.sha}"
                    return CommitInfo(commit_url=url, commit_message="", commit_description="", oid=str(now.sha))
            try:
                return send()
            except Exception as error:
                lost = status_of(error) not in REFUSED
                raise

        return ask_for_push(target.repo_id, once)


def push(
    directory: str | Path,
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool = False,
    create_pr: bool = False,
    commit_message: str | None = None,
    edited_card: bool = False,
    overwrite: bool = False,
) -> Pushed:
    """Push a merge that isthmus saved to a repository on the Hub, in one commit. The repository is created if needed.

    The push goes to main, to the branch `revision`, or with `create_pr` into a pull request. With `edited_card` the
    card may differ from the one that isthmus wrote. With `overwrite` a model that is there already is replaced.

    Raises BadInput, ModelNotFound or IsthmusError (`isthmus.checkpoint.errors`). No file in the repository has then
    changed, and the same push again does not send the files that have arrived.
    """
    files = read_output(Path(directory), edited_card=edited_card)
    target = PushTarget.find(repo_id, revision=revision, private=private, create_pr=create_pr)
    return plan_push(files, target, overwrite=overwrite).carry_out(commit_message)


def plan_push(files: Sequence[OutputFile], target: PushTarget, *, overwrite: bool = False) -> PushPlan:
    """What a push of `files` would do. Raises BadInput if it would overwrite files, unless `overwrite`."""
    changed = _differing(files, target.files)
    if changed and (not overwrite or target.create_pr):
        target.require_room()
    names = {file.name for file in files}
    present = [file.rfilename for file in target.files]
    stale = [name for name in present if name not in names and any(fnmatch(name, kind) for kind in MODEL_FILES)]
    return PushPlan(target, tuple(files), changed, tuple(stale) if changed else ())


def _differing(files: Sequence[OutputFile], present: Sequence[RepoSibling]) -> tuple[OutputFile, ...]:
    """The files that a repository lacks, or has with other content."""
    digests = {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in present}
    return tuple(file for file in files if digests.get(file.name) not in (file.sha256, file.blob_id))
