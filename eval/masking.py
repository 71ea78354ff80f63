"""Masked language models, which read in both directions: tokens of a text are hidden from them, to be predicted.

As in the training of BERT (Devlin et al. 2019, arXiv 1810.04805): of every block 15 % of the tokens are chosen; in the
place of 80 % of these the model sees the mask, of 10 % a random token, of 10 % the token itself. The choice is drawn
from a seed and from the text of the block, so that all models are asked for the same tokens.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.errors import BadInput
from .targets import NOTHING, hiding

SHARE = 0.15
MASKED, RANDOM = 0.8, 0.1  # of the chosen tokens


@dataclass(frozen=True)
class Masking:
    """How the text of one tokenizer is hidden: its ids of the mask and of what begins and ends a text, and `special`
    ids, which are not chosen as long as there are others.
    """

    mask: int
    frame: tuple[int, int] | None
    special: tuple[int, ...]
    vocabulary: int
    seed: int

    @classmethod
    def of(cls, tokenizer: Any, vocabulary: int, seed: int) -> Masking:
        """By a tokenizer. Raises BadInput for one that has no mask, or one without a row."""
        mask, first, last = (getattr(tokenizer, f"{name}_token_id", None) for name in ("mask", "cls", "sep"))
        if mask is None:
            raise BadInput(
                "these are masked language models, and their tokenizer has no mask token, without which no loss can be "
                "measured: leave --data out, or give them one, and a row of the embedding"
            )
        beyond = [token for token in (mask, first, last) if token is not None and token >= vocabulary]
        if beyond:
            raise BadInput(
                f"the tokenizer gives the id {beyond[0]} to a token that begins, ends or masks a text, beyond the "
                f"vocabulary of {vocabulary}: add its row to the embedding, and train it"
            )
        frame = None if first is None or last is None else (int(first), int(last))
        special = tuple(map(int, getattr(tokenizer, "all_special_ids", ())))
        return cls(int(mask), frame, special, vocabulary, seed)

    @property
    def around(self) -> int:
        """How many tokens of a block are no text."""
        return 0 if self.frame is None else len(self.frame)

    def hide(self, blocks: Tensor) -> Tensor:
        """Blocks of text (blocks, n) as a masked language model gets them, (blocks, n + `around`)."""
        rows = [self._hidden(row) for row in blocks]
        hidden = torch.stack(rows) if rows else blocks
        if self.frame is None:
            return hidden
        first, last = (torch.full((len(hidden), 1), hiding(token, NOTHING)) for token in self.frame)
        return torch.cat([first, hidden, last], 1)

    def _hidden(self, row: Tensor) -> Tensor:
        digest = hashlib.blake2b(row.numpy().tobytes(), digest_size=7, key=str(self.seed).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        order = torch.randperm(len(row), generator=generator)
        ordinary = ~torch.isin(row[order], torch.tensor(self.special, dtype=row.dtype))
        chosen = torch.cat([order[ordinary], order[~ordinary]])[: max(1, round(SHARE * len(row)))]
        kinds = torch.rand(len(chosen), generator=generator)
        others = torch.randint(self.vocabulary, (len(chosen),), generator=generator)
        shown = torch.where(kinds < MASKED, self.mask, torch.where(kinds < MASKED + RANDOM, others, row[chosen]))
        hidden = row.clone()
        hidden[chosen] = hiding(shown, row[chosen])
        return hidden
