"""The exceptions of isthmus: one family, one clear sentence each, one exit code each."""

from __future__ import annotations


class IsthmusError(Exception):
    """Anything that stops isthmus for a reason the user can act on.

    The message is one sentence that names the model, the tensor or the file, what was found, what was
    expected, and the way out. `exit_code` is what the command line returns.
    """

    exit_code = 1


class BadInput(IsthmusError):
    """What the user gave cannot be used: a wrong option, a missing file, unreadable text."""

    exit_code = 2


class TooLittleText(BadInput):
    """The text has too few tokens for what is to be done with it."""


class ModelNotFound(BadInput):
    """A directory or repository does not exist, is gated or private, or is not in the offline cache."""


class CorruptCheckpoint(BadInput):
    """A checkpoint's files are damaged: truncated, misshapen, NaN or Inf, all-zero, or unsafe to read."""


class NotFinite(BadInput):
    """NaN, Inf or a number beyond the range of its dtype, where weights or a report were to be written."""


class IncompatibleModels(BadInput):
    """Two checkpoints that cannot be merged with each other."""


class UnsupportedFamily(BadInput):
    """An architecture whose symmetries isthmus does not know."""


class AlignmentError(IsthmusError):
    """An alignment that would change the function of the model, found by verifying it."""


def one_line(error: BaseException, limit: int = 200) -> str:
    """What a library's exception says, on one line, cut at `limit` characters; its name where it says nothing."""
    text = " ".join(str(error).split())
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    return text or type(error).__name__


class GateRefused(IsthmusError):
    """A gate that the user set (a barrier, a gain, a spectrum) refused the merge; nothing was saved."""

    exit_code = 3
