"""One finding of a check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..untrusted_text import plain

LONGEST = 1000  # characters; a finding may quote an untrusted file
Kind = Literal["blocks", "degrades", "notes"]
# What a merge that writes gibberish may owe it to (`isthmus.checkpoint.checks.diagnosis`).
Cause = Literal[
    "architecture",
    "positions",
    "tokens",
    "base",
    "adapters",
    "layers",
    "end token",
    "chat template",
    "rounding",
    "ties",
]


@dataclass(frozen=True)
class Finding:
    """A finding that `blocks` a merge, `degrades` it, or only `notes` something.

    `what` is the problem, `where` the file that it is in, `advice` what to do; `cause` what it may do to a merge, where
    that is the worst.
    """

    kind: Kind
    what: str
    advice: str
    where: str
    cause: Cause | None = None

    def __post_init__(self) -> None:
        for name in ("what", "advice", "where"):
            object.__setattr__(self, name, plain(getattr(self, name), LONGEST))

    def __str__(self) -> str:
        return f"{self.what}: {self.advice}"
