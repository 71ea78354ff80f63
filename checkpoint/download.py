"""A download that ends: huggingface_hub writes what a server sends for as long as it sends, whatever it announced."""

from __future__ import annotations

from typing import Any

from .errors import CorruptCheckpoint


def capped(limit: int, where: str) -> type[Any]:
    """A class of progress bars for huggingface_hub's downloads which stops one of more than `limit` bytes.

    It raises CorruptCheckpoint; `where` names the file.
    """
    from huggingface_hub.utils import tqdm

    class Capped(tqdm):  # type: ignore[misc, type-arg, unused-ignore]
        received = 0
        monitor_interval = 0  # else every class starts a thread that never ends

        def update(self, n: float | None = 1) -> bool | None:
            """Count the bytes before they are written."""
            self.received += int(n or 0)
            if self.received > limit:
                raise CorruptCheckpoint(
                    f"{where} does not end after the {limit:,} bytes that it may have: do not trust it"
                )
            shown: bool | None = super().update(n)
            return shown

    return Capped
