"""Whether a text probably trained a model.

A model that has learned a text by heart predicts it far better than what it writes itself: its own text soon leaves
what it knows. Or that does not, and is the same. The text is cut in the middle of each block, and the model writes its
own second half, so that both are of one kind (source code is easier to predict than prose, whoever has seen it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from .loss import SURE, Losses, LossMeter
from .samples import written_blocks

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FAR = 0.5  # nats per token
ALIKE = 0.5  # share of tokens
BLOCKS = 32
LENGTH = 128  # tokens of a block, at most


@dataclass(frozen=True)
class OwnWords:
    """What a model writes on from the first halves of blocks, held against their second halves, block by block.

    `gap` is its loss on what it writes − its loss on the text, in nats per token: about 0.1 for text that is new to it.
    `alike` is the share of tokens that are the same.
    """

    gap: Losses
    alike: Losses

    def by_heart(self) -> tuple[str, ...]:
        """The labels of the texts that the model has probably learned by heart."""
        return tuple(
            label for label in self.gap.per_block if _above(self.gap, label, FAR) or _above(self.alike, label, ALIKE)
        )


def own_words(
    state: Mapping[str, Tensor],
    config: PretrainedConfig,
    blocks: Mapping[str, Tensor],
    *,
    seed: int,
    device: str = "cpu",
) -> OwnWords:
    """What a model writes in the place of a text, by label; `blocks` are token ids, (blocks, context).

    The first `BLOCKS` are taken, and the first `LENGTH` tokens of each.
    """
    texts = {label: ids[:BLOCKS, :LENGTH] for label, ids in blocks.items()}
    halves = {label: ids.shape[1] // 2 for label, ids in texts.items()}
    own = {
        label: written_blocks(state, config, ids[:, : halves[label]], ids.shape[1], seed=seed, device=device)
        for label, ids in texts.items()
    }
    meter = LossMeter(config, texts, device=device)
    on_text, on_own = (meter.token_losses(state, part) for part in (texts, own))
    gap = {label: (on_own[label] - on_text[label])[:, halves[label] - 1 :].double().mean(1) for label in texts}
    alike = {label: (own[label] == ids)[:, halves[label] :].double().mean(1) for label, ids in texts.items()}
    return OwnWords(Losses(gap), Losses(alike))


def _above(measured: Losses, label: str, limit: float) -> bool:
    """Whether the mean of a label is above a limit by more than the noise."""
    one = Losses({label: measured.per_block[label]})
    return one.mean - SURE * one.stderr > limit
