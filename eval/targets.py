"""What a model is asked on a block: the tokens that follow, tokens that are hidden from it, or labels.

Blocks are integers (blocks, context). One on which the next tokens are asked has the ids of its tokens. In one with
hidden tokens (`isthmus.eval.masking`), the entry of such a token is (shown + 1) · `RADIX` + the token, where `NOTHING`
stands for no token of the text. In a labelled one (`isthmus.eval.labelled_text`), the entry of a token that has a label
is −2 − (token · `RADIX` + label): the first of a text, or all that are labelled. One of a second segment that has none
has `SEGMENT` added (`isthmus.checkpoint.model`). A text that is shorter than its block ends in `PADDING`, which is −1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from ..checkpoint.model import PADDING

RADIX = 2**24
NOTHING = RADIX - 1
IGNORED = -100  # among targets: none, as torch's cross-entropy takes it
Ids = TypeVar("Ids", int, Tensor)


def hiding(shown: Ids, token: Ids | int) -> Ids:
    """The entry of a token that is hidden, and of what a model sees in its place."""
    return (shown + 1) * RADIX + token


def labelled(token: Ids, label: Ids | int) -> Ids:
    """The entry of a token that has a label."""
    return -2 - (token * RADIX + label)


def shown(blocks: Tensor) -> Tensor:
    """What a model reads of blocks: token ids of the same shape, and `PADDING`."""
    unhidden = torch.where(blocks < RADIX, blocks, blocks // RADIX - 1)
    return torch.where(blocks < PADDING, (-2 - blocks) // RADIX, unhidden)


def text_of(blocks: Tensor) -> list[Tensor]:
    """The token ids of the text of every block, with nothing hidden and nothing around it."""
    tokens = torch.where(blocks < PADDING, (-2 - blocks) // RADIX, blocks % RADIX)
    return [row[row != NOTHING] for row in tokens]  # the remainder of PADDING is NOTHING


def predicted(blocks: Tensor) -> Tensor:
    """The targets of blocks, (blocks, n), `IGNORED` where a block has fewer: every token but the first where nothing
    else is asked.
    """
    if is_labelled(blocks):
        targets, asked = (-2 - blocks) % RADIX, blocks < PADDING
        rows = [row[own] for row, own in zip(targets, asked, strict=True)]
        return pad_sequence(rows, batch_first=True, padding_value=IGNORED)
    if not is_masked(blocks):
        return blocks[:, 1:]
    return (blocks % RADIX)[_hidden(blocks)].view(len(blocks), -1)


def scores(logits: Tensor, blocks: Tensor) -> Tensor:
    """The logits for these targets, (blocks, n, classes), of those of `shown` blocks.

    Those are (blocks, context, classes), or (blocks, classes) of a classifier of texts. The logits for a token that
    follows are at the place before it, others at their own.
    """
    if logits.ndim == 2:
        return logits[:, None]
    if is_labelled(blocks):
        asked = (blocks < PADDING)[:, : logits.shape[1]].to(logits.device)  # padding that all have is not read
        return pad_sequence([row[own] for row, own in zip(logits, asked, strict=True)], batch_first=True)
    if not is_masked(blocks):
        return logits[:, :-1]
    return logits[_hidden(blocks).to(logits.device)].view(len(blocks), -1, logits.shape[-1])


def is_masked(blocks: Tensor) -> bool:
    """Whether blocks are those of a masked language model."""
    return bool((blocks >= RADIX).any())


def is_labelled(blocks: Tensor) -> bool:
    """Whether blocks are those of a classifier."""
    return bool((blocks < PADDING).any())


def stacked(parts: Sequence[Tensor]) -> Tensor:
    """All blocks of some labels, (blocks, the longest)."""
    longest = max(rows.shape[1] for rows in parts)
    return torch.cat([pad(rows, (0, longest - rows.shape[1]), value=PADDING) for rows in parts])


def lengths(blocks: Tensor) -> Tensor:
    """The tokens of every block, (blocks,)."""
    return (blocks != PADDING).sum(1)


def _hidden(blocks: Tensor) -> Tensor:
    return (blocks >= RADIX) & (blocks % RADIX != NOTHING)
