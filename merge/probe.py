"""A probe: text of another kind than the user's, that tells whether what was fitted to that holds elsewhere.

It is text that the two models write, half of it each, which every pair has, and text of the standard library that the
user's is not: docstrings, else source code, where the tokenizer reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..checkpoint.errors import BadInput
from ..checkpoint.inputs import Inputs
from ..eval.barrier import Profile, profile
from ..eval.corpora import WRITTEN
from ..eval.loss import Losses, LossMeter
from ..eval.progress import Progress
from ..eval.samples import Writer
from ..eval.targets import text_of
from ..eval.text import Text
from .path import WeightPath

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LIBRARY = ("stdlib:docs", "stdlib:code")
UNREADABLE = 0.05  # share of tokens that the tokenizer does not know
TOKENS = 4096  # of every label
LENGTH = 256  # tokens of a block, at most
BETWEEN = (0.25, 0.5, 0.75)
HOLDS = 0.75  # of the share of the barrier that fitting took away on the user's text
BELOW = 1.0  # standard errors that the gain is below that share, for fitting not to hold


@dataclass(frozen=True)
class Probe:
    """Reads the text of the probe for two models, whose user gave `data`; without that the models' own text is the
    user's, and not part of the probe.
    """

    inputs: Inputs
    data: Sequence[str]
    writer: Writer

    def blocks(self, part: Literal["select", "report"]) -> dict[str, Tensor]:
        """The blocks by label, to choose by or to report on; none for classifiers, which other text asks nothing."""
        if self.inputs.first.schema.classifies:
            return {}
        length, blocks = min(LENGTH, self.inputs.context), {}
        if self.data and self.writer.writes:
            purpose = {"select": "choose", "report": "probe"}[part]
            blocks[WRITTEN] = self.writer.blocks(purpose, -(-TOKENS // length), length)
        for spec in LIBRARY:
            if not any(spec in one for one in self.data):
                library = self._library(spec, length)
                return {**blocks, spec: library[part]} if library else blocks
        return blocks

    def _library(self, spec: str, length: int) -> dict[str, Tensor] | None:
        """Text of the library, empty for a tokenizer of other things than words."""
        try:
            tokenizer = self.inputs.tokenizer()
            text = Text.of_model([spec], tokenizer, self.writer.config, context=length, seed=self.writer.seed)
            (part,) = text.blocks(fit_tokens=None, select_tokens=TOKENS, report_tokens=TOKENS)
        except BadInput:
            return None
        unknown = getattr(tokenizer, "unk_token_id", None)
        if unknown is not None and (torch.cat(text_of(part.report)) == unknown).float().mean() > UNREADABLE:
            return None
        return {"select": part.select, "report": part.report}


@dataclass(frozen=True)
class Probed:
    """Two paths on some texts: the one that is merged, with the merge at `t`, and the straight line of the closed form
    that it began with. They are the same where nothing was fitted.
    """

    path: Profile
    closed: Profile
    t: float

    def rows(self, own: Probed) -> tuple[dict[str, Any], ...]:
        """What the report says of every text, JSON-ready; `own` are the same paths on the user's text."""
        before, after = (
            sum(highest(one, label).mean for label in one.start.per_block) for one in (own.closed, own.path)
        )
        share = max(0.0, 1 - after / before) if before > 0 else 0.0
        return tuple(self._row(label, share) for label in self.path.start.per_block)

    def is_worse(self) -> bool:
        """Whether fitting has raised the barrier on a text by more than the noise."""
        gains = [highest(self.closed, label) - highest(self.path, label) for label in self.path.start.per_block]
        return any((-gain).is_surely_positive for gain in gains)

    def _row(self, label: str, share: float) -> dict[str, Any]:
        path, closed = highest(self.path, label), highest(self.closed, label)
        lower, ends = closed - path, [_of(end, label) for end in (self.path.start, self.path.end)]
        merge = _of(self.path.at(self.t), label)
        gain = min(ends, key=lambda end: end.mean) - merge
        return {
            "label": label,
            "endpoint_losses": [end.mean for end in ends],
            "loss": merge.mean,
            "gain": gain.mean,
            "gain_stderr": gain.stderr,
            "barrier": max(0.0, path.mean),
            "barrier_without_fitting": None if self.path is self.closed else max(0.0, closed.mean),
            "stderr": lower.stderr,
            "holds": lower.mean + BELOW * lower.stderr >= HOLDS * share * closed.mean,
        }


def probed(
    path: tuple[WeightPath, PretrainedConfig],
    closed: tuple[WeightPath, PretrainedConfig] | None,
    blocks: Mapping[str, Tensor],
    t: float,
    device: str,
    progress: Progress,
) -> Probed:
    """A path, with its configuration, on `blocks`, and the straight line it began with; None where it is that."""
    paths = [path, *([closed] if closed else [])]
    ts = sorted({0.0, *BETWEEN, t, 1.0})
    progress.stage("measuring on other text", len(paths) * len(ts) * sum(map(len, blocks.values())))
    profiles = [
        profile(one, LossMeter(config, blocks, device=device, on_blocks=progress.advance), ts) for one, config in paths
    ]
    return Probed(profiles[0], profiles[-1], t)


def highest(measured: Profile, label: str) -> Losses:
    """The highest excess of one label between the ends, block by block."""
    excesses = [_of(measured.excess(t), label) for t in BETWEEN]
    return max(excesses, key=lambda losses: losses.mean)


def _of(losses: Losses, label: str) -> Losses:
    return Losses({label: losses.per_block[label]})
