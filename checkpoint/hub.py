"""Calls to the Hub through huggingface_hub: repeated after a transient failure, else one sentence says what failed.

Transient are a dropped or stalled connection, a rate limit (429) and the answers of an overloaded server (408, 5xx).
The call is repeated after a pause that doubles, or that the server asks for, unless that is too long.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from .errors import BadInput, IsthmusError, ModelNotFound
from .redaction import redact
from .untrusted_text import plain

T = TypeVar("T")

ATTEMPTS = 4
PAUSE = 0.5
LONGEST_PAUSE = 60.0
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
LOG_IN = "log in with 'hf auth login'"


class Unreachable(Exception):
    """The Hub did not answer at all."""


def ask(name: str, call: Callable[[], T]) -> T:
    """The result of a call to the Hub for the repository `name`, after at most `ATTEMPTS` attempts.

    Raises Unreachable without a network; otherwise ModelNotFound, BadInput or IsthmusError, in one sentence.
    """
    pause = PAUSE
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except Exception as error:
            wait = max(pause, _requested_pause(error)) if is_transient(error) else LONGEST_PAUSE + 1
            if attempt == ATTEMPTS or wait > LONGEST_PAUSE:
                raise _translated(name, error) from error
            time.sleep(wait)
            pause *= 2
    raise AssertionError("the last attempt returns or raises")


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed in a moment: not without a network, nor after a refusal."""
    if _is_no_network(error):
        return False
    status = status_of(error)
    if status is not None:
        return status in TRANSIENT
    return _is_connection(error) or (error.__cause__ is not None and is_transient(error.__cause__))


def status_of(error: BaseException) -> int | None:
    """The HTTP status in an exception; None if there was no answer."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _requested_pause(error: BaseException) -> float:
    """The seconds to wait that the server asks for, else 0."""
    response: Any = getattr(error, "response", None)
    if response is None:
        return _requested_pause(error.__cause__) if error.__cause__ else 0.0
    written = response.headers.get("Retry-After", "")
    return float(written) if written.isdigit() else 0.0


def _is_connection(error: BaseException) -> bool:
    library = type(error).__module__.partition(".")[0]
    return library.startswith(("httpx", "httpcore")) or isinstance(error, (ConnectionError, TimeoutError))


def _is_no_network(error: BaseException) -> bool:
    return type(error).__name__ in ("ConnectError", "OfflineModeIsEnabled") or isinstance(error, ConnectionRefusedError)


def _translated(name: str, error: Exception) -> Exception:
    """The exception to raise for one of huggingface_hub."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return ModelNotFound(f"'{name}' is gated: accept its terms on the Hub, then {LOG_IN}")
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFound(f"'{name}' has no such revision: check what follows the @")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelNotFound(
            f"there is no model '{name}' on the Hub, or it is private: check the spelling, or {LOG_IN}"
        )
    if isinstance(error, errors.HFValidationError):
        return BadInput(f"'{name}' is not a valid Hub id")
    if isinstance(error, errors.LocalEntryNotFoundError):
        cause = error.__cause__
        return _translated(name, cause) if isinstance(cause, errors.HfHubHTTPError) else Unreachable(str(error))
    if isinstance(error, errors.EntryNotFoundError):
        return ModelNotFound(f"a file of '{name}' is missing on the Hub")
    status = status_of(error)
    if status in (401, 403):
        return ModelNotFound(f"the Hub refused access to '{name}' ({status}): {LOG_IN}")
    if status == 412:
        return IsthmusError(f"'{name}' was changed by somebody else in the meantime: look at it, and try again")
    if status is not None:
        message = getattr(error, "server_message", None) if status not in TRANSIENT else None
        reason = plain(redact(str(message))) if message else "try again later"
        return ModelNotFound(f"the Hub answered {status} for '{name}': {reason}")
    if _is_connection(error) or _is_no_network(error):
        return Unreachable(str(error))
    if isinstance(error.__cause__, Exception) and not isinstance(error, (IsthmusError, ValueError)):
        return _translated(name, error.__cause__)
    return error
