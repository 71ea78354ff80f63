"""The accuracy of classifiers: the share of labels that are the likeliest by the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .forward import logits_of
from .loss import Losses, by_batches
from .targets import IGNORED, predicted, scores, shown

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LogProbs = dict[str, Tensor]  # of labels: (blocks, targets, labels) for every text


class Accuracies(Losses):
    """The share of right labels in every block, from 0 to 1, label of a text → float64 (blocks,).

    Means, standard errors and paired differences are those of `Losses`.
    """


@torch.no_grad()
def label_log_probs(
    state: Mapping[str, Tensor],
    config: PretrainedConfig,
    blocks: Mapping[str, Tensor],
    *,
    device: str = "cpu",
    on_blocks: Callable[[int], None] = lambda count: None,
) -> LogProbs:
    """The log-probabilities of all labels, float32, by a classifier on labelled blocks (`isthmus.eval.targets`)."""
    logits, results = logits_of(config, device)(state), {}
    for label, rows in blocks.items():
        width = predicted(rows).shape[1]

        def log_probs(ids: Tensor, width: int = width) -> Tensor:
            own = scores(logits(shown(ids)), ids).float().log_softmax(-1).cpu()
            return torch.nn.functional.pad(own, (0, 0, 0, width - own.shape[1]))

        results[label] = by_batches(log_probs, rows, int(config.vocab_size), on_blocks)
    return results


def accuracy(log_probs: LogProbs, blocks: Mapping[str, Tensor]) -> Accuracies:
    """The share of labels of every block that are the likeliest."""
    shares = {}
    for label, rows in blocks.items():
        targets = predicted(rows)
        right = (log_probs[label].argmax(-1) == targets).double().sum(1)
        shares[label] = right / (targets != IGNORED).sum(1)
    return Accuracies(shares)


def ensemble_log_probs(members: Sequence[LogProbs]) -> LogProbs:
    """Those of the ensemble that averages its members' probabilities."""
    return {
        label: torch.stack([member[label].double() for member in members]).logsumexp(0) - math.log(len(members))
        for label in members[0]
    }
