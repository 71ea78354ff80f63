"""One thing that a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["blocks", "degrades", "notes"]


@dataclass(frozen=True)
class Finding:
    """It `blocks` a merge, `degrades` it, or is one of the `notes`: what, in which file, and what to do."""

    kind: Kind
    what: str
    advice: str
    where: str

    def __str__(self) -> str:
        return f"{self.what}: {self.advice}"
