"""Panics of libraries written in Rust: no Exception in Python, and written to stderr before anybody catches them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

STDERR = 2


def is_failure(error: BaseException) -> bool:
    """Whether an exception says that the work failed: any Exception, and a panic, which is derived from none."""
    return isinstance(error, Exception) or is_panic(error)


def is_panic(error: BaseException) -> bool:
    """Whether an exception is a panic of a library written in Rust."""
    return type(error).__name__ == "PanicException"


@contextmanager
def quiet_panics() -> Iterator[None]:
    """Keep what is written to the process's stderr in the block; it is written at the end, unless there was a panic.

    A panic comes as an exception, and its message and stack need not be shown beside the sentence that is made of it.
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
