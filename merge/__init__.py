"""Joining: paths, the choice of the merge point, the pipeline with its gates.

The package can be called: ``isthmus.merge(a, b, data=["stdlib:docs"])`` does the main job.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .pipeline import merge


class _Callable(ModuleType):
    def __call__(self, *args: object, **kwargs: object) -> object:
        from .pipeline import merge

        return merge(*args, **kwargs)  # type: ignore[arg-type]


sys.modules[__name__].__class__ = _Callable

__all__ = ["merge"]
