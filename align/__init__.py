"""Taking the gauge out: symmetries as data (`families`, `symmetry`), canonical forms, matching, alignments.

The package can be called: ``isthmus.align(a, b)`` aligns two checkpoints.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .pipeline import align_checkpoints as align


class _Callable(ModuleType):
    def __call__(self, *args: object, **kwargs: object) -> object:
        from .pipeline import align_checkpoints

        return align_checkpoints(*args, **kwargs)  # type: ignore[arg-type]


sys.modules[__name__].__class__ = _Callable

__all__ = ["align"]
