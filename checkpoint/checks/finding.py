"""One thing that a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..untrusted_text import plain

LONGEST = 1000  # characters of what was found; it may repeat a part of a stranger's file
Kind = Literal["blocks", "degrades", "notes"]


@dataclass(frozen=True)
class Finding:
    """It `blocks` a merge, `degrades` it, or is one of the `notes`: what, in which file, and what to do."""

    kind: Kind
    what: str
    advice: str
    where: str

    def __post_init__(self) -> None:
        for name in ("what", "advice", "where"):
            object.__setattr__(self, name, plain(getattr(self, name), LONGEST))

    def __str__(self) -> str:
        return f"{self.what}: {self.advice}"
