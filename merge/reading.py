"""The text of one merge: read once for all that is fitted, chosen and reported on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..align.methods import LOOKING
from ..checkpoint.errors import BadInput
from ..checkpoint.inputs import Inputs
from ..checkpoint.loading import Checkpoint
from ..eval.progress import Progress
from ..eval.text import Blocks, Text, Tokenizer
from ..eval.text_hashes import TextHashes
from .plans import CurvePlan, MergePlan
from .recipes.recipe import Recipe

ACTIVATION_TOKENS = 16_384  # that models are looked at on, for alignment or for statistics


class MergeText:
    """The parts of every label; more to fit on is read when it is asked for."""

    def __init__(self, parts: Sequence[Blocks] = (), read_more: Callable[[int], Sequence[Blocks]] | None = None):
        self.parts, self._read_more = tuple(parts), read_more

    def __bool__(self) -> bool:
        return bool(self.parts)

    @property
    def labels(self) -> list[str]:
        """The labels, in the order in which they were given."""
        return [part.label for part in self.parts]

    @property
    def select(self) -> dict[str, Tensor]:
        """What is chosen by: label → blocks."""
        return {part.label: part.select for part in self.parts}

    @property
    def report(self) -> dict[str, Tensor]:
        """What is shown: label → blocks."""
        return {part.label: part.report for part in self.parts}

    def fit(self, tokens: int = 0, labels: Sequence[str] | None = None) -> dict[str, Tensor]:
        """What is fitted on, at least `tokens` of every label where there are, of some `labels` or all.

        Raises TooLittleText where there is none.
        """
        if self._read_more is not None and any(part.fit.numel() < tokens for part in self.parts):
            more = {part.label: part.fit for part in self._read_more(tokens)}
            self.parts = tuple(replace(part, fit=more[part.label]) for part in self.parts)
        return {part.label: part.fit for part in self.parts if labels is None or part.label in labels}

    def training_labels(self, fit_on: Sequence[str]) -> list[str]:
        """The labels to train on: those that are asked for, by default all. Raises BadInput for one without text."""
        for label in fit_on:
            if label not in self.labels:
                raise BadInput(f"--fit-on {label}: there is no text of that label; there are: {', '.join(self.labels)}")
        return list(fit_on) or self.labels


def read_text(
    plan: MergePlan, recipe: Recipe | None, inputs: Inputs, progress: Progress, *, seen: TextHashes | None = None
) -> tuple[MergeText, bool | None]:
    """The text of a merge, and whether the tokenizer that is saved reads it as the one that read it (None: it is that).

    Text that a path was trained on, `seen`, is left out.
    """
    if not plan.data:
        return MergeText(), None
    progress.stage("reading text")
    fitted = fit_tokens(plan, recipe, inputs.context)
    amounts = {"fit_tokens": fitted, "select_tokens": plan.tokens, "report_tokens": plan.tokens}
    text = _text(plan, inputs, inputs.first, inputs.tokenizer())
    parts = text.blocks(**amounts, seen=seen)

    def read_more(count: int) -> Sequence[Blocks]:
        progress.stage("reading more text")
        measured = TextHashes.of((rows for part in parts for rows in (part.select, part.report)), every=1)
        return text.blocks(fit_tokens=count, select_tokens=0, report_tokens=0, seen=measured)

    merge_text = MergeText(parts, None if fitted else read_more)
    if inputs.growth is None:
        return merge_text, None
    owner = inputs.whole[inputs.growth.owner]
    try:
        again = _text(plan, inputs, owner, owner.tokenizer()).blocks(**amounts, seen=seen)
    except BadInput:  # the other tokenizer needs so much fewer tokens that there are too few
        return merge_text, False
    return merge_text, all(torch.equal(one.report, other.report) for one, other in zip(parts, again, strict=True))


def _text(plan: MergePlan, inputs: Inputs, model: Checkpoint, tokenizer: Tokenizer) -> Text:
    vocabulary = int(model.config.vocab_size)
    return Text(plan.data, tokenizer, context=inputs.context, vocabulary=vocabulary, seed=plan.seed)


def tokens_per_label(labels: int) -> int:
    """The fit tokens of every label that models are looked at on."""
    return -(-ACTIVATION_TOKENS // max(1, labels))


def fit_tokens(plan: MergePlan, recipe: Recipe | None, context: int) -> int:
    """The tokens of every label that are fitted on or looked at, as far as that is settled beforehand."""
    labels = len(plan.fit_on) or len(plan.data)
    if isinstance(plan.path, CurvePlan):
        return plan.path.training.tokens(labels, context)
    if plan.alignment == "learned" and plan.path == "linear":
        return plan.learn.training.tokens(labels, context)
    looks = plan.alignment in LOOKING or (
        recipe is not None and (plan.alignment == "auto" or recipe.operator.knows is not None)
    )
    return tokens_per_label(labels) if looks and plan.data and plan.path == "linear" else 0
