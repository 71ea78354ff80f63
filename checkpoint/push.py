"""Pushing a merge to the Hub: in one commit, or not at all; what has arrived is not sent again.

The hub client uploads large files first, and the Hub keeps them; the commit that names them comes last. So an
interrupted push leaves nothing to be seen, and the same push again goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from functools import partial
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .card import FIGURE
from .errors import BadInput, IsthmusError, ModelNotFound
from .hub import LOG_IN, Unreachable, ask, status_of
from .manifest import REPORT
from .redaction import redact
from .small_files import SMALL_FILES
from .untrusted_text import plain
from .upload_check import OutputFile, read_output

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

# What may be left of another model in a repository, and would be loaded with the new one.
MODEL_FILES = (
    *SMALL_FILES,
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*",
    REPORT,
    FIGURE,
    "report.html",
)
T = TypeVar("T")
REFUSED = frozenset({429, 503})  # answers that mean that nothing was done
NOBODYS = frozenset({".gitattributes", ".gitignore", "LICENSE", "LICENSE.md", "LICENSE.txt"})


@dataclass(frozen=True)
class PushTarget:
    """Where a push goes: a repository, a branch of it (`revision`, None for main) or a pull request to that.

    `info` is what the Hub says of it now, None where there is no such repository; of a branch that is `new` it is what
    the Hub says of main, from which it will be made.
    """

    repo_id: str
    revision: str | None
    private: bool
    create_pr: bool
    new: bool
    info: ModelInfo | None

    @classmethod
    def find(
        cls,
        repo_id: str,
        *,
        revision: str | None = None,
        private: bool = False,
        create_pr: bool = False,
        writing: bool = True,
    ) -> PushTarget:
        """Look a repository up. Without a namespace it is one of the user who is logged in.

        Raises BadInput for a name that is none, without a login where `writing`, and for a private push into a public
        repository; ModelNotFound when the Hub refuses access, or cannot be reached.
        """
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(repo_id)
        except HFValidationError:
            raise BadInput(f"'{repo_id}' is no name for a repository: write user/model") from None
        revision = None if revision == "main" else revision
        if create_pr and revision is not None:
            raise BadInput("a pull request is opened against main: leave --revision out")
        if get_token() is None and (writing or "/" not in repo_id):
            raise BadInput(f"pushing needs an account of the Hub: {LOG_IN}, or set HF_TOKEN")
        if "/" not in repo_id:
            repo_id = f"{_asked(repo_id, lambda: HfApi().whoami())['name']}/{repo_id}"
        info = _look_up(repo_id, None)
        if info is not None and private and not info.private:
            raise BadInput(f"'{repo_id}' is public, so that --private cannot be kept: choose another name")
        branch = _look_up(repo_id, revision) if info is not None and revision is not None else info
        return cls(repo_id, revision, private, create_pr, revision is not None and branch is None, branch or info)

    @property
    def files(self) -> list[RepoSibling]:
        """What is there now."""
        return list(self.info.siblings or []) if self.info else []

    def require_room(self) -> None:
        """Raise BadInput when somebody's files would be overwritten: not by a new branch, nor by a pull request."""
        if self.create_pr and self.info is None:
            raise BadInput(f"there is no repository '{self.repo_id}' to open a pull request in")
        if self.create_pr or self.new:
            return
        others = [file.rfilename for file in self.files if file.rfilename not in NOBODYS]
        if others:
            more = f" and {len(others) - 1} more files" if len(others) > 1 else ""
            raise BadInput(
                f"'{self.repo_id}' holds {others[0]}{more} already: choose another name, add --create-pr to propose "
                "the merge, or push with --overwrite to replace what is there"
            )


@dataclass(frozen=True)
class Pushed:
    """What came of a push: the address to look at, and the commit."""

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
        """The plan and what came of it, None of a dry run, as JSON-ready data."""
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
        """Create what is missing, upload, commit. What has arrived before is not sent again.

        Raises IsthmusError when the upload fails; nothing of it is to be seen then.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        target, api = self.target, HfApi()
        url = redact(f"{api.endpoint}/{target.repo_id}")
        if not self.changed and not self.stale:
            return Pushed(url, target.info.sha if target.info else None)
        if target.info is None:
            _asked(
                target.repo_id,
                lambda: api.create_repo(target.repo_id, private=target.private or None, exist_ok=True),
            )
        if target.new:
            branch = str(target.revision)
            _asked(target.repo_id, lambda: api.create_branch(target.repo_id, branch=branch, exist_ok=True))
        additions = [CommitOperationAdd(file.name, file.path) for file in self.changed]
        removals = [CommitOperationDelete(name) for name in self.stale]
        send = partial(
            api.create_commit,
            target.repo_id,
            [*additions, *removals],
            commit_message=message or "Merge made with isthmus",
            revision=target.revision,
            create_pr=target.create_pr,
            parent_commit=target.info.sha if target.info and not target.create_pr else None,
        )
        upload = partial(
            api.preupload_lfs_files,
            target.repo_id,
            additions,
            revision=target.revision,
            create_pr=target.create_pr,
            free_memory=False,
        )
        _asked(target.repo_id, upload)
        made = self._commit(send)
        address = redact(made.pr_url) if made.pr_url else None
        return Pushed(address or url, made.oid, address)

    def _commit(self, send: Callable[[], CommitInfo]) -> CommitInfo:
        """Send the commit; when the answer was lost, look whether it was made before it is sent again."""
        from huggingface_hub import CommitInfo

        target, lost = self.target, False

        def once() -> CommitInfo:
            nonlocal lost
            if lost:
                if target.create_pr:
                    raise IsthmusError(
                        f"the connection to '{target.repo_id}' broke while the pull request was opened: look there "
                        "whether it was, before you try again"
                    )
                now = _look_up(target.repo_id, target.revision)
                if now is not None and not _differing(self.files, now.siblings or []):
                    url = f"{target.repo_id}/commit/{now.sha}"
                    return CommitInfo(commit_url=url, commit_message="", commit_description="", oid=str(now.sha))
            try:
                return send()
            except Exception as error:
                lost = status_of(error) not in REFUSED
                raise

        return _asked(target.repo_id, once)


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
    """Push a merge that isthmus saved to a repository of the Hub, which is made if need be, in one commit.

    It goes to main, to the branch `revision`, or into a pull request. The card may have been changed since where that
    is `edited_card`; a model that is there already is replaced only to `overwrite` it.

    Raises BadInput, ModelNotFound or IsthmusError (`isthmus.checkpoint.errors`); nothing is to be seen on the Hub then,
    and the same push again does not send what has arrived.
    """
    files = read_output(Path(directory), edited_card=edited_card)
    target = PushTarget.find(repo_id, revision=revision, private=private, create_pr=create_pr)
    return plan_push(files, target, overwrite=overwrite).carry_out(commit_message)


def plan_push(files: Sequence[OutputFile], target: PushTarget, *, overwrite: bool = False) -> PushPlan:
    """What a push of `files` would do. Raises BadInput when others' files would be overwritten (unless `overwrite`)."""
    changed = _differing(files, target.files)
    if changed and (not overwrite or target.create_pr):
        target.require_room()
    ours = {file.name for file in files}
    there = [file.rfilename for file in target.files]
    stale = [name for name in there if name not in ours and any(fnmatch(name, kind) for kind in MODEL_FILES)]
    return PushPlan(target, tuple(files), changed, tuple(stale) if changed else ())


def _differing(files: Sequence[OutputFile], there: Sequence[RepoSibling]) -> tuple[OutputFile, ...]:
    """Those of some files that are not the same in a repository."""
    digests = {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in there}
    return tuple(file for file in files if digests.get(file.name) not in (file.sha256, file.blob_id))


def _look_up(repo_id: str, revision: str | None) -> ModelInfo | None:
    """What the Hub says of a repository or a branch of it, None where there is none."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    def look() -> ModelInfo | None:
        try:
            return HfApi().model_info(repo_id, revision=revision, files_metadata=True)
        except GatedRepoError:
            raise
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None

    return _asked(repo_id, look)


def _asked(repo_id: str, call: Callable[[], T]) -> T:
    """The result of a call to the Hub; what goes wrong becomes one sentence that says how to go on."""
    again = "push again to go on: what has arrived is not sent twice"
    try:
        return ask(repo_id, call)
    except Unreachable:
        raise ModelNotFound(f"the Hub cannot be reached for '{repo_id}': connect, and push again") from None
    except IsthmusError:
        raise
    except JSONDecodeError:
        raise IsthmusError(f"the Hub answered '{repo_id}' with what is no JSON: {again}") from None
    except ValueError as error:
        raise BadInput(f"the Hub refuses the card of '{repo_id}': {_one_line(error)}") from None
    except Exception as error:
        reason = f"{type(error).__name__}: {_one_line(error)}"
        raise IsthmusError(f"the push to '{repo_id}' failed ({reason}): {again}") from None


def _one_line(error: Exception) -> str:
    # Secrets go before the line is cut: half of one would not be known again.
    return plain(redact(" ".join(str(error)[:4000].split())))
