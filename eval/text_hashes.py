"""Hashes of text that was trained or measured on: they find it in other text, and do not reveal it.

Many corpora repeat themselves: blocks that hold text of the select or report part are not trained on. And a path that
one command trains may be measured by another, which may cut the text at other places: there, blocks that hold a window
of what was trained on are left out, so that nothing is chosen or reported on it.
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
from .targets import text_of

WINDOW = 64
_KEY, _BYTES = "windows", 8


@dataclass(frozen=True)
class TextHashes:
    """Hashes (BLAKE2b, 8 bytes) of windows of `WINDOW` tokens, or of whole blocks where these are shorter."""

    hashes: frozenset[bytes] = frozenset()

    @classmethod
    def of(cls, parts: Iterable[Tensor], *, every: int = WINDOW) -> TextHashes:
        """The hashes of some parts, token ids (blocks, context) each, one window every `every` tokens.

        With 1, every run of `WINDOW` tokens is found again. With `WINDOW` the windows tile the blocks, and other blocks
        are found that share at least `WINDOW` tokens with the beginning or the end of one of them.
        """
        # The last window of a block would stick out: another one ends where the block does.
        rows = (row for blocks in parts for row in text_of(blocks))
        hashes = ((*_digests(row, every), *_digests(row[-WINDOW:], 1)) for row in rows)
        return cls(frozenset(digest for windows in hashes for digest in windows))

    @classmethod
    def load(cls, file: Path) -> TextHashes:
        """What `save` wrote. Raises OSError, SafetensorError, CorruptCheckpoint or KeyError for another file."""
        require_regular_file(file, file.parent.name)
        return cls(frozenset(bytes(row) for row in load_file(file)[_KEY].tolist()))

    def save(self, file: Path) -> None:
        """Write the hashes as safetensors."""
        rows = torch.tensor([list(digest) for digest in sorted(self.hashes)], dtype=torch.uint8)
        file.write_bytes(save({_KEY: rows.reshape(-1, _BYTES)}))

    def within(self, blocks: Tensor) -> Tensor:
        """Which of some blocks, token ids (blocks, context), hold one of the windows: (blocks,), bool."""
        if not self.hashes:
            return torch.zeros(len(blocks), dtype=torch.bool)
        hits = [any(digest in self.hashes for digest in _digests(block, 1)) for block in text_of(blocks)]
        return torch.tensor(hits, dtype=torch.bool)


def _digests(block: Tensor, step: int) -> Iterator[bytes]:
    """Hashes of the windows of one block of token ids, `step` tokens apart."""
    raw = block.to(torch.int32).numpy().astype("<i4").tobytes()
    width = min(WINDOW, block.numel())
    for start in range(0, block.numel() - width + 1, step):
        yield hashlib.blake2b(raw[4 * start : 4 * (start + width)], digest_size=_BYTES).digest()
