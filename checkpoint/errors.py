"""The exceptions of isthmus: one family; each is one clear sentence, and has one exit code."""

from __future__ import annotations


class IsthmusError(Exception):
    """Anything that stops isthmus for a reason the user can act on.

    The message is one sentence: which model, tensor or file, what is wrong with it, what was expected, what to do.
    The command line returns `exit_code`.
    """

    exit_code = 1


class BadInput(IsthmusError):
    """What the user gave cannot be used: a wrong option, a missing file, unreadable text."""

    exit_code = 2


class TooLittleText(BadInput):
    """The text has too few tokens for its purpose."""


class ModelNotFound(BadInput):
    """A directory or repository does not exist, is gated or private, or is not in the offline cache."""


class CorruptCheckpoint(BadInput):
    """The files of a checkpoint are damaged (truncated, wrong shapes, NaN or Inf, all zero), or unsafe to read."""


class NotFinite(BadInput):
    """NaN, Inf or a number beyond the range of its dtype in weights or a report that would be written."""


class IncompatibleModels(BadInput):
    """Two checkpoints that cannot be merged with each other."""


class UnsupportedFamily(BadInput):
    """An architecture whose symmetries isthmus does not know."""


class AlignmentError(IsthmusError):
    """An alignment that would change the function of the model, as its verification showed."""


def one_line(error: BaseException, limit: int = 200) -> str:
    """The message of a library's exception on one line, cut to `limit` characters; its class if it has none."""
    text = " ".join(str(error).split())
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    return text or type(error).__name__


class GateRefused(IsthmusError):
    """A gate that the user set (a barrier, a gain, a spectrum) refused the merge; nothing was saved."""

    exit_code = 3
