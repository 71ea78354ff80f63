"""The loss of a state: one module without weights, called functionally with every state that is measured.

A model that may be larger than memory is measured from its directory: accelerate places its layers on GPUs, in memory
and on disk.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..align.memory import release_freed
from ..checkpoint.errors import BadInput
from ..checkpoint.model import arguments
from ..checkpoint.task import CLASSIFIERS, MASKED, auto_class, task_of
from ..checkpoint.trial_loading import quiet
from ..checkpoint.working_folders import WorkingFolder
from .forward import logits_of
from .processes import shared
from .targets import IGNORED, is_labelled, is_masked, lengths, predicted, scores, shown

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LOGITS_AT_ONCE = 2**24
STATES = 4  # that are measured until what they freed is given back: glibc would keep more than all of them hold
SURE = 2.0  # standard errors
ROUNDING = 1e-5  # nats by which the losses of one function may differ, computed in another order
ABSENT = -1.0  # among losses, which are 0 or more: a block has fewer targets than others


@dataclass(frozen=True)
class Losses:
    """Mean loss per token of every block of every label, in nats: label → float64 (blocks,).

    All blocks predict the same number of tokens, except labelled ones. Differences and weighted sums are taken block by
    block, so that their standard errors are those of paired comparisons; where one has more blocks, over the first ones
    of both.
    """

    per_block: dict[str, Tensor]

    def label_mean(self, label: str) -> float:
        """Mean over the blocks of one label."""
        return self.per_block[label].mean().item()

    @property
    def mean(self) -> float:
        """The mean over labels of their means."""
        return sum(self.label_mean(label) for label in self.per_block) / len(self.per_block)

    @property
    def stderr(self) -> float:
        """Standard error of `mean` over blocks; 0 for labels of a single block, whose spread is unknown."""
        variances = [v.var().item() / v.numel() for v in self.per_block.values() if v.numel() > 1]
        return math.sqrt(sum(variances)) / len(self.per_block)

    @property
    def is_surely_positive(self) -> bool:
        """Whether the mean, of a difference, is above 0 by more than `SURE` standard errors, and rounding."""
        return self.mean > max(SURE * self.stderr, ROUNDING)

    def __neg__(self) -> Losses:
        return Losses({label: -values for label, values in self.per_block.items()})

    def __sub__(self, other: Losses) -> Losses:
        return self._paired(other, lambda mine, theirs: mine - theirs)

    def mixed(self, other: Losses, t: float) -> Losses:
        """(1 − t) self + t other, block by block."""
        return self._paired(other, lambda mine, theirs: (1 - t) * mine + t * theirs)

    def joined(self, other: Losses) -> Losses:
        """The losses of these blocks, followed by those of the other's."""
        labels = {**self.per_block, **other.per_block}
        parts = {label: [x.per_block[label] for x in (self, other) if label in x.per_block] for label in labels}
        return Losses({label: torch.cat(values) for label, values in parts.items()})

    def _paired(self, other: Losses, combine: Callable[[Tensor, Tensor], Tensor]) -> Losses:
        """Combine on the blocks that both have, which are the first ones."""
        combined = {}
        for label, values in self.per_block.items():
            count = min(values.numel(), other.per_block[label].numel())
            combined[label] = combine(values[:count], other.per_block[label][:count])
        return Losses(combined)


def weighed(losses: Sequence[Losses], shares: Sequence[float]) -> Losses:
    """Σ s_i L_i, block by block."""
    stacked = {label: torch.stack([one.per_block[label] for one in losses]) for label in losses[0].per_block}
    return Losses({label: torch.tensor(shares, dtype=rows.dtype) @ rows for label, rows in stacked.items()})


class LossMeter:
    """Measures states of one configuration on labelled token blocks (label → int64 (blocks, context)).

    The forward pass runs on `device`, in float32. `on_blocks` is called with the number of blocks that were done. Of a
    masked language model, the loss is that of the tokens that are hidden in its blocks, of a classifier that of their
    labels (`isthmus.eval.targets`).
    """

    def __init__(
        self,
        config: PretrainedConfig,
        blocks: Mapping[str, Tensor],
        *,
        device: str = "cpu",
        on_blocks: Callable[[int], None] = lambda count: None,
    ):
        task, rows = task_of(config), [rows for rows in blocks.values() if len(rows)]
        if task in CLASSIFIERS and not all(map(is_labelled, rows)):
            raise BadInput(
                "a classifier is measured on labelled text: give it blocks with labels (isthmus.eval.labelled_text)"
            )
        if task == MASKED and not all(map(is_masked, rows)):
            raise BadInput(
                f"a model of type '{config.model_type}' that reads in both directions sees the tokens that it would "
                "have to predict: give it blocks in which some are hidden (isthmus.eval.text.Text.of_model)"
            )
        self.config, self.blocks, self.device, self.on_blocks = config, blocks, torch.device(device), on_blocks
        self._logits_of = logits_of(config, device)
        self._states = 0

    @torch.no_grad()
    def token_losses(
        self, state: Mapping[str, Tensor], blocks: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """−log p of every predicted token, float32, label → (blocks, predicted); on `blocks`, by default its own."""
        own = self.blocks if blocks is None else blocks
        losses = label_losses(self._logits_of(state), own, self.config.vocab_size, self.on_blocks)
        self._states += 1
        if self._states % STATES == 0:
            release_freed()
        return losses

    def __call__(self, state: Mapping[str, Tensor], blocks: Mapping[str, Tensor] | None = None) -> Losses:
        """The losses of one state."""
        return per_block(self.token_losses(state, blocks))


def label_losses(
    logits: Callable[[Tensor], Tensor], blocks: Mapping[str, Tensor], vocabulary: int, on_blocks: Callable[[int], None]
) -> dict[str, Tensor]:
    """−log p of every target, label → (blocks, predicted), by what gives the logits of token ids; `ABSENT` where a
    block has fewer targets than others.

    As many blocks at a time as their logits allow, which several processes share.
    """
    result = {}
    for label, rows in blocks.items():
        width = predicted(rows).shape[1]

        def losses(ids: Tensor, width: int = width) -> Tensor:
            found, targets = scores(logits(shown(ids)), ids), predicted(ids)
            values = cross_entropy(found, targets).cpu()
            if is_labelled(ids):
                values = values.masked_fill(targets == IGNORED, ABSENT)
            return torch.nn.functional.pad(values, (0, width - values.shape[1]), value=ABSENT)

        result[label] = by_batches(losses, rows, vocabulary, on_blocks)
    return result


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """−log p of targets (blocks, n) by logits (blocks, n, classes); 0 where they are `IGNORED`.

    Block by block: nothing as large as all logits is held beside them, and those of a target lie side by side.
    """
    pairs = zip(logits, targets.to(logits.device), strict=True)
    return torch.stack([torch.nn.functional.cross_entropy(*pair, reduction="none") for pair in pairs])


def by_batches(
    compute: Callable[[Tensor], Tensor], rows: Tensor, vocabulary: int, on_blocks: Callable[[int], None]
) -> Tensor:
    """compute(blocks) of all blocks, as many at a time as their logits allow; labelled ones beside those as long, so
    that no model sees padding, which some do not leave out.
    """
    order = lengths(rows).argsort(stable=True) if is_labelled(rows) else None
    parts, size = [], max(1, LOGITS_AT_ONCE // (rows.shape[1] * vocabulary))
    alike = (rows,) if order is None else rows[order].split(lengths(rows).unique(return_counts=True)[1].tolist())
    for part in (part for of_one_length in alike for part in torch.split(of_one_length, size)):
        parts.append(shared(part, compute))
        on_blocks(part.shape[0])
    results = torch.cat(parts)
    return results if order is None else results[order.argsort()]


def per_block(token_losses: Mapping[str, Tensor]) -> Losses:
    """Average token losses over each block, in float64."""
    return Losses({label: _mean(values.double()) for label, values in token_losses.items()})


def _mean(values: Tensor) -> Tensor:
    """The mean of every row, of those that are not `ABSENT`."""
    absent = values == ABSENT
    return values.mean(1) if not bool(absent.any()) else values.masked_fill(absent, 0).sum(1) / (~absent).sum(1)


def ensemble_losses(members: list[dict[str, Tensor]]) -> Losses:
    """Losses of the ensemble that averages its members' probabilities: −log mean_m exp(−loss_m), token by token."""
    combined = {}
    for label, values in members[0].items():
        stacked = torch.stack([-member[label].double() for member in members])
        averaged = -(stacked.logsumexp(0) - math.log(len(members)))
        combined[label] = torch.where(values == ABSENT, values.double(), averaged)
    return per_block(combined)


@torch.no_grad()
def offloaded_token_losses(
    directory: Path,
    blocks: Mapping[str, Tensor],
    memory: int,
    *,
    on_blocks: Callable[[int], None] = lambda count: None,
) -> dict[str, Tensor]:
    """As `LossMeter.token_losses`, of the model in a directory, with at most `memory` bytes of weights in memory."""
    with offloaded(directory, memory) as model:

        def logits(ids: Tensor) -> Tensor:
            out: Tensor = model(**arguments(model, ids)).logits
            return out.float()

        return label_losses(logits, blocks, int(model.config.vocab_size), on_blocks)


@contextmanager
def offloaded(directory: Path, memory: int | None) -> Iterator[Any]:
    """The model in a directory, in float32, with at most `memory` bytes of weights in main memory (None: all of them).

    The others are on GPUs where there are any, else on disk, from where a layer is read when its turn comes.
    """
    from transformers import AutoConfig

    with WorkingFolder(Path(tempfile.gettempdir(), "isthmus-offload-")) as folder:
        placed: dict[str, Any] = {}
        if memory is not None:
            limits: dict[int | str, int] = {"cpu": memory}
            if torch.cuda.is_available():
                limits |= {gpu: torch.cuda.mem_get_info(gpu)[0] * 4 // 5 for gpu in range(torch.cuda.device_count())}
            placed = {"device_map": "auto", "max_memory": limits, "offload_folder": folder}
        with quiet():
            kind = auto_class(AutoConfig.from_pretrained(directory))
            model = kind.from_pretrained(directory, dtype=torch.float32, **placed).eval()
        yield model
