"""Panics of libraries written in Rust: in Python not an Exception, and printed to stderr before they can be caught."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

STDERR = 2


def is_failure(error: BaseException) -> bool:
    """Whether an exception means that the work failed: any Exception, and a panic, which is not one."""
    return isinstance(error, Exception) or is_panic(error)


def attempt(call: Callable[[], T]) -> T | None:
    """The result of a call; None if it failed."""
    try:
        return call()
    except BaseException as error:
        if not is_failure(error):
            raise
        return None


def is_panic(error: BaseException) -> bool:
    """Whether an exception is a panic of a library written in Rust."""
    return type(error).__name__ == "PanicException"


@contextmanager
def quiet_panics() -> Iterator[None]:
    """Hold back the process's stderr during the block; print it at the end, unless there was a panic.

    A panic also arrives as an exception, from which one sentence is made; its own message and stack are not shown.
    """
    try:
        saved = os.dup(STDERR)
    except OSError:  # closed
        yield
        return
    panic = False
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), STDERR)
        try:
            yield
        except BaseException as error:
            panic = is_panic(error)
            raise
        finally:
            os.dup2(saved, STDERR)
            os.close(saved)
            if not panic:
                file.seek(0)
                written = file.read()
                if written:
                    os.write(STDERR, written)
