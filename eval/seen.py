"""Text that was trained on, known again by hashes of its windows, from which nobody can read it.

Many corpora say things twice, so blocks that hold what is measured on are not trained on. And a path that was trained
in one command is measured in another, where the text may be cut elsewhere: blocks that hold a window of what was
trained on are left out there, so that nothing is chosen or reported on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ..checkpoint.size_limits import require_regular_file

WINDOW = 64
_KEY, _BYTES = "windows", 8


@dataclass(frozen=True)
class Seen:
    """Hashes (BLAKE2b, 8 bytes) of windows of `WINDOW` tokens, or of whole blocks where these are shorter."""

    hashes: frozenset[bytes] = frozenset()

    @classmethod
    def of(cls, parts: Iterable[Tensor], *, every: int = WINDOW) -> Seen:
        """What remembers the token ids of some parts, each (blocks, context), by a window `every` so many tokens.

        With 1, every run of `WINDOW` tokens is known again. With `WINDOW` the windows tile the blocks, and other blocks
        that share at least as many tokens with the beginning or the end of one of them are known.
        """
        return cls(frozenset(found for blocks in parts for block in blocks for found in _tiles(block, every)))

    @classmethod
    def load(cls, file: Path) -> Seen:
        """What `save` wrote. Raises OSError, SafetensorError, CorruptCheckpoint or KeyError for another file."""
        require_regular_file(file, file.parent.name)
        return cls(frozenset(bytes(row) for row in load_file(file)[_KEY].tolist()))

    def save(self, file: Path) -> None:
        """Write the hashes as safetensors."""
        rows = torch.tensor([list(found) for found in sorted(self.hashes)], dtype=torch.uint8)
        file.write_bytes(save({_KEY: rows.reshape(-1, _BYTES)}))

    def within(self, blocks: Tensor) -> Tensor:
        """Which of some blocks, token ids (blocks, context), hold a window that was seen: (blocks,), bool."""
        found = [any(window in self.hashes for window in _windows(block, 1)) for block in blocks]
        return torch.tensor(found, dtype=torch.bool)


def _tiles(block: Tensor, every: int) -> Iterator[bytes]:
    yield from _windows(block, every)
    yield from _windows(block[-WINDOW:], 1)  # where the last window would stick out


def _windows(block: Tensor, step: int) -> Iterator[bytes]:
    """Hashes of the windows of one block of token ids, `step` tokens apart."""
    raw = block.to(torch.int32).numpy().astype("<i4").tobytes()
    width = min(WINDOW, block.numel())
    for start in range(0, block.numel() - width + 1, step):
        yield hashlib.blake2b(raw[4 * start : 4 * (start + width)], digest_size=_BYTES).digest()
