"""Whether a text probably trained a model.

A model that has learned a text by heart predicts it far better than what it writes itself: its own text soon leaves
what it knows by heart. The text is cut in the middle of each block, and the model writes its own second half, so that
both are of one kind (source code is easier to predict than prose, whoever has seen it).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from .loss import Losses, LossMeter
from .samples import written_blocks

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FAR = 0.5  # nats per token
SURE = 2.0
BLOCKS = 32
LENGTH = 128  # tokens of a block, at most


def own_words(
    state: Mapping[str, Tensor],
    config: PretrainedConfig,
    blocks: Mapping[str, Tensor],
    *,
    seed: int,
    device: str = "cpu",
) -> Losses:
    """Loss of a model on what it writes itself − its loss on a text, both after the same first halves, block by block.

    `blocks` are token ids by label, (blocks, context); the first `BLOCKS` are taken, and the first `LENGTH` tokens of
    each. About 0.1 nats for text that is new to a model, above `FAR` for one that was learned by heart.
    """
    texts = {label: ids[:BLOCKS, :LENGTH] for label, ids in blocks.items()}
    own = {
        label: written_blocks(state, config, ids[:, : ids.shape[1] // 2], ids.shape[1], seed=seed, device=device)
        for label, ids in texts.items()
    }
    meter = LossMeter(config, texts, device=device)
    text, written = (meter.token_losses(state, part) for part in (texts, own))
    return Losses(
        {
            label: (written[label] - text[label])[:, ids.shape[1] // 2 - 1 :].double().mean(1)
            for label, ids in texts.items()
        }
    )


def by_heart(gap: Losses) -> tuple[str, ...]:
    """The labels of the texts that a model has probably learned by heart, by its `own_words`."""
    labels = (Losses({label: values}) for label, values in gap.per_block.items())
    return tuple(label for one in labels for label in one.per_block if one.mean - SURE * one.stderr > FAR)
