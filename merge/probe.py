"""A probe: text of another kind than the user's, that tells whether what was fitted to that holds elsewhere.

It is text that the two models write, half of it each, which every pair has, and the docstrings of the standard library
where their tokenizer reads them and the user's text are no docstrings already.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..checkpoint.errors import BadInput
from ..checkpoint.inputs import Inputs
from ..eval.barrier import Profile, profile
from ..eval.loss import Losses, LossMeter
from ..eval.progress import Progress
from ..eval.samples import WRITTEN, written_blocks
from ..eval.text import Text
from .path import WeightPath

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LIBRARY = "stdlib:docs"
TOKENS = 4096  # of every label
LENGTH = 256  # tokens of a block, at most
BETWEEN = (0.25, 0.5, 0.75)
HOLDS = 1 / 3  # of the share of the barrier that fitting took away on the user's text
SURE = 2.0


def written(inputs: Inputs, blocks: int, length: int, *, seed: int, progress: Progress) -> Tensor:
    """Blocks that the two models have written, in turn, (blocks, length)."""
    progress.stage("writing text", 2)
    halves = []
    for place, member in enumerate(inputs.members[:2]):
        part = written_blocks(member.state, inputs.first.config, -(-blocks // 2), length, seed=2 * seed + place)
        halves.append(part)
        progress.advance()
    return torch.stack(halves, 1).flatten(0, 1)[:blocks]


def probe_text(inputs: Inputs, data: Iterable[str], *, seed: int, progress: Progress) -> dict[str, Tensor]:
    """The blocks of the probe by label."""
    length = min(LENGTH, inputs.context)
    blocks = {WRITTEN: written(inputs, -(-TOKENS // length), length, seed=seed, progress=progress)}
    if not any(LIBRARY in spec for spec in data):
        vocabulary = int(inputs.first.config.vocab_size)
        try:
            text = Text([LIBRARY], inputs.tokenizer(), context=length, vocabulary=vocabulary, seed=seed)
            (part,) = text.blocks(fit_tokens=None, select_tokens=0, report_tokens=TOKENS)
        except BadInput:  # a tokenizer of other things than words
            return blocks
        blocks[LIBRARY] = part.report
    return blocks


@dataclass(frozen=True)
class Probed:
    """Two paths on some texts: the `fitted` one, and the straight line of the `closed` form that it began with.

    `others` are the labels of the probe; the rest is the user's.
    """

    fitted: Profile
    closed: Profile
    others: tuple[str, ...]

    def rows(self) -> tuple[dict[str, Any], ...]:
        """What the report says of every text of the probe, JSON-ready."""
        own = [label for label in self.fitted.start.per_block if label not in self.others]
        before, after = (sum(_highest(one, label).mean for label in own) for one in (self.closed, self.fitted))
        share = max(0.0, 1 - after / before) if before > 0 else 0.0
        return tuple(self._row(label, share) for label in self.others)

    def is_worse(self) -> bool:
        """Whether fitting has raised the barrier on a text of the probe by more than the noise."""
        gains = [_highest(self.closed, label) - _highest(self.fitted, label) for label in self.others]
        return any(gain.mean < -SURE * gain.stderr for gain in gains)

    def _row(self, label: str, share: float) -> dict[str, Any]:
        fitted, closed = _highest(self.fitted, label), _highest(self.closed, label)
        gain, ends = closed - fitted, (self.fitted.start, self.fitted.end)
        return {
            "label": label,
            "losses": [end.label_mean(label) for end in ends],
            "barrier": max(0.0, fitted.mean),
            "barrier_without_fitting": max(0.0, closed.mean),
            "stderr": gain.stderr,
            "holds": gain.mean + SURE * gain.stderr >= HOLDS * share * closed.mean,
        }


def probed(
    fitted: tuple[WeightPath, PretrainedConfig],
    closed: tuple[WeightPath, PretrainedConfig],
    own: Mapping[str, Tensor],
    others: Mapping[str, Tensor],
    *,
    device: str,
    progress: Progress,
) -> Probed:
    """Two paths, with their configurations, on the user's `own` text and on `others`."""
    blocks = {**own, **others}
    progress.stage("measuring on other text", 2 * (2 + len(BETWEEN)) * sum(map(len, blocks.values())))
    profiles = [
        profile(path, LossMeter(config, blocks, device=device, on_blocks=progress.advance), (0.0, *BETWEEN, 1.0))
        for path, config in (fitted, closed)
    ]
    return Probed(profiles[0], profiles[1], tuple(others))


def _highest(measured: Profile, label: str) -> Losses:
    """The highest excess of one label, block by block."""
    excesses = [Losses({label: measured.excess(t).per_block[label]}) for t in BETWEEN]
    return max(excesses, key=lambda losses: losses.mean)
