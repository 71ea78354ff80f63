"""Where a push goes: a repository on the Hub and a branch of it, as they are before the push."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from json import JSONDecodeError
from typing import TYPE_CHECKING, TypeVar

from .errors import BadInput, IsthmusError, ModelNotFound
from .hub import LOG_IN, Unreachable, ask
from .redaction import redact
from .untrusted_text import plain

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

T = TypeVar("T")
# Files that a push may replace without asking: they are not part of a model.
INCIDENTAL = frozenset({".gitattributes", ".gitignore", "LICENSE", "LICENSE.md", "LICENSE.txt"})


@dataclass(frozen=True)
class PushTarget:
    """A repository, with the branch `revision` (None for main), or a pull request against main.

    `info` is what the Hub says of the branch, None if there is no repository. For a branch that is `new`, it is what
    the Hub says of main, from which the branch will be created.
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
        """Look up a repository. A name without a namespace is in that of the user who is logged in.

        Raises BadInput for an invalid name, for a push (`writing`) without a login, and for a private push to a public
        repository; ModelNotFound if the Hub refuses access, or cannot be reached.
        """
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(repo_id)
        except HFValidationError:
            raise BadInput(f"'{repo_id}' is not a valid name for a repository: write user/model") from None
        revision = None if revision == "main" else revision
        if create_pr and revision is not None:
            raise BadInput("a pull request is opened against main: leave out --revision")
        if get_token() is None and (writing or "/" not in repo_id):
            raise BadInput(f"a push needs an account on the Hub: {LOG_IN}, or set HF_TOKEN")
        if "/" not in repo_id:
            repo_id = f"{ask_for_push(repo_id, lambda: HfApi().whoami())['name']}/{repo_id}"
        info = look_up(repo_id, None)
        if info is not None and private and not info.private:
            raise BadInput(f"'{repo_id}' is public, and --private would not make it private: choose another name")
        branch = look_up(repo_id, revision) if info is not None and revision is not None else info
        return cls(repo_id, revision, private, create_pr, revision is not None and branch is None, branch or info)

    @property
    def files(self) -> list[RepoSibling]:
        """The files that the branch holds now."""
        return list(self.info.siblings or []) if self.info else []

    def require_room(self) -> None:
        """Raise BadInput if the push would overwrite files; a new branch or a pull request overwrites none."""
        if self.create_pr and self.info is None:
            raise BadInput(f"there is no repository '{self.repo_id}' to open a pull request in")
        if self.create_pr or self.new:
            return
        others = [file.rfilename for file in self.files if file.rfilename not in INCIDENTAL]
        if others:
            more = f" and {len(others) - 1} more files" if len(others) > 1 else ""
            raise BadInput(
                f"'{self.repo_id}' already holds {others[0]}{more}: choose another name, add --create-pr to propose "
                "the merge, or push with --overwrite to replace what is there"
            )


def look_up(repo_id: str, revision: str | None) -> ModelInfo | None:
    """What the Hub says of a repository or a branch of it; None if there is none."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    def look() -> ModelInfo | None:
        try:
            return HfApi().model_info(repo_id, revision=revision, files_metadata=True)
        except GatedRepoError:
            raise
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None

    return ask_for_push(repo_id, look)


def ask_for_push(repo_id: str, call: Callable[[], T]) -> T:
    """The result of a call to the Hub. Every failure becomes one sentence that says how to go on."""
    advice = "push again to continue; files that have arrived are not sent again"
    try:
        return ask(repo_id, call)
    except Unreachable:
        raise ModelNotFound(f"the Hub cannot be reached for '{repo_id}': connect, and push again") from None
    except IsthmusError:
        raise
    except JSONDecodeError:
        raise IsthmusError(f"the answer of the Hub for '{repo_id}' is not valid JSON: {advice}") from None
    except ValueError as error:
        raise BadInput(f"the Hub refuses the card of '{repo_id}': {_one_line(error)}") from None
    except Exception as error:
        reason = f"{type(error).__name__}: {_one_line(error)}"
        raise IsthmusError(f"the push to '{repo_id}' failed ({reason}): {advice}") from None


def _one_line(error: Exception) -> str:
    # Secrets are taken out before the line is cut: half a secret would not be recognised.
    return plain(redact(" ".join(str(error)[:4000].split())))
