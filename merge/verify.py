"""What is saved is what was measured: the weights are the path's point, and the files have the loss that is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..align.alignment import TOLERANCE as LOG_PROBS
from ..align.alignment import random_ids, rounding
from ..checkpoint.config import context_length
from ..checkpoint.errors import AlignmentError, IsthmusError, NotFinite
from ..checkpoint.model import arguments, log_probs, outputs
from ..checkpoint.rows import ComputedState
from ..eval.loss import Losses, offloaded
from ..eval.targets import predicted, scores
from ..eval.targets import shown as shown_tokens

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LENGTH = 16  # tokens that a model without text is run on
BLOCKS = 2  # of every label
TOLERANCE = 1e-3  # nats per token


def require_same_function(
    state: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    config: PretrainedConfig,
    what: str,
    *,
    seed: int = 0,
    measure: Callable[..., Tensor] = log_probs,
) -> None:
    """Raise AlignmentError where log-probabilities of two states on random token ids differ by more than `LOG_PROBS`.

    `what` was done to the first to make the other; `measure` computes them (`isthmus.checkpoint.model`).
    """
    ids = random_ids(config, seed)
    expected = measure(state, config, ids)
    error = (measure(other, config, ids) - expected).abs().max().item()
    if not error <= LOG_PROBS and not error <= rounding(state, config, ids, expected):
        raise AlignmentError(
            f"{what} changes the model: log-probabilities differ by {error:.2g} (allowed {LOG_PROBS:.0e}), so nothing "
            "is saved: please report this"
        )


@dataclass(frozen=True)
class Shown:
    """The losses of a merge that its report shows, block by block, and the blocks: label → token ids.

    `memory` is how many bytes of weights may be in memory, None for all.
    """

    blocks: Mapping[str, Tensor]
    losses: Losses
    memory: int | None = None


@torch.no_grad()
def require_shown(directory: Path, shown: Shown, model: str) -> None:
    """Measure the model in a directory on the first `BLOCKS` blocks of every label.

    Raises IsthmusError where its loss is not the one that was shown, within `TOLERANCE`.
    """
    with offloaded(directory, shown.memory) as saved_model:
        for label, rows in shown.blocks.items():
            for ids, loss in zip(rows[:BLOCKS], shown.losses.per_block[label], strict=False):
                block = ids[None]
                given = arguments(saved_model, shown_tokens(block))
                logits = scores(saved_model(**given).logits, block)[0].float()
                saved = torch.nn.functional.cross_entropy(logits, predicted(block)[0].to(logits.device)).item()
                if not abs(saved - loss.item()) <= TOLERANCE:
                    raise IsthmusError(
                        f"the loss of '{model}' on '{label}' is {saved:.4f} as it would be written and "
                        f"{loss.item():.4f} as it was measured, so nothing is written: please report this"
                    )


@torch.no_grad()
def require_saved(
    directory: Path, state: Mapping[str, Tensor], config: PretrainedConfig, dtype: torch.dtype, model: str
) -> None:
    """Run the model in a directory, and the state that it was written from in `dtype`, on a few token ids.

    Raises NotFinite where logits are not finite; IsthmusError where log-probabilities differ by more than `TOLERANCE`
    times their spread, so that the files do not hold what was merged.
    """
    length = min(LENGTH, context_length(config) or LENGTH)
    ids = torch.randint(int(config.vocab_size), (1, length), generator=torch.Generator().manual_seed(0))
    with offloaded(directory, None) as saved_model:
        logits = saved_model(**arguments(saved_model, ids)).logits.float()
    if not bool(torch.isfinite(logits).all()):
        raise NotFinite(
            f"'{model}' gives NaN or Inf for every text, so nothing is written: its weights are too large; take "
            "other parameters"
        )
    written = ComputedState(state, lambda name: state[name].to(dtype).float())
    merged = log_probs(written, config, ids)
    difference = (outputs(logits, config) - merged).abs().max().item()
    if not difference <= TOLERANCE * (1 + merged.std(correction=0).item()):
        raise IsthmusError(
            f"the log-probabilities of '{model}' as it would be written differ by {difference:.2g} from those of what "
            "was merged, so nothing is written: please report this"
        )
