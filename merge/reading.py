"""The text of one merge: read once for all that is fitted, chosen and reported on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..align.methods import LOOKING
from ..checkpoint.errors import BadInput
from ..checkpoint.inputs import Inputs
from ..checkpoint.loading import Checkpoint
from ..checkpoint.task import CLASSIFIERS, task_of
from ..eval.corpora import WRITTEN
from ..eval.labelled_text import LabelledText
from ..eval.progress import Progress
from ..eval.samples import Writer
from ..eval.targets import stacked
from ..eval.text import Blocks, Text, Tokenizer
from ..eval.text_hashes import TextHashes
from .plans import CurvePlan, MergePlan, refuse
from .recipes.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ACTIVATION_TOKENS = 16_384  # that models are looked at on, for alignment or for statistics


class MergeText:
    """The parts of every label; more to fit on is read when it is asked for. Labels `report_on` are for the report."""

    def __init__(
        self,
        parts: Sequence[Blocks] = (),
        read_more: Callable[[int], Sequence[Blocks]] | None = None,
        report_on: Sequence[str] = (),
    ):
        self.parts, self._read_more, self._report_on = tuple(parts), read_more, report_on

    def __bool__(self) -> bool:
        return bool(self.parts)

    @property
    def labels(self) -> list[str]:
        """The labels that are fitted and selected on, in the order in which they were given."""
        return [part.label for part in self.parts if part.label not in self._report_on]

    @property
    def select(self) -> dict[str, Tensor]:
        """What is chosen by: label → blocks."""
        return {part.label: part.select for part in self.parts if part.label in self.labels}

    @property
    def report(self) -> dict[str, Tensor]:
        """What is shown: label → blocks."""
        return {part.label: part.report for part in self.parts}

    def fit(self, tokens: int = 0, labels: Sequence[str] | None = None) -> dict[str, Tensor]:
        """What is fitted on, at least `tokens` of every label where there are, of some `labels` or all.

        Raises TooLittleText where there is none.
        """
        short = any(part.fit.numel() < tokens for part in self.parts if part.label in self.labels)
        if self._read_more is not None and short:
            more = {part.label: part.fit for part in self._read_more(tokens)}
            self.parts = tuple(replace(part, fit=more[part.label]) for part in self.parts)
        wanted = self.labels if labels is None else labels
        return {part.label: part.fit for part in self.parts if part.label in wanted}

    def training_labels(self, fit_on: Sequence[str]) -> list[str]:
        """The labels to train on: those that are asked for, by default all. Raises BadInput for one without text."""
        for label in fit_on:
            if label not in self.labels:
                why = "that text only reports" if label in self._report_on else "there is no text of that label"
                raise BadInput(f"--fit-on {label}: {why}; there are: {', '.join(self.labels)}")
        return list(fit_on) or self.labels


def writer_of(inputs: Inputs, plan: MergePlan, device: str, progress: Progress) -> Writer:
    """What the two models of a merge write."""
    states = [member.state for member in inputs.members[:2]]
    return Writer(states, inputs.first.config, plan.seed, device, progress)


def written_text(writer: Writer, context: int, tokens: int) -> MergeText:
    """Text that two models write themselves, for those who give none: `tokens` to select on and as many to report on.

    What is fitted is written when it is asked for.
    """
    select, report = (writer.blocks(purpose, -(-tokens // context), context) for purpose in ("select", "report"))

    def blocks(count: int) -> tuple[Blocks]:
        fit = writer.blocks("fit", -(-count // context), context) if count else select[:0]
        return (Blocks(WRITTEN, fit, select, report),)

    return MergeText(blocks(0), blocks)


def read_text(
    plan: MergePlan,
    recipe: Recipe | None,
    inputs: Inputs,
    device: str,
    progress: Progress,
    *,
    seen: TextHashes | None = None,
) -> tuple[MergeText, bool | None]:
    """The text of a merge, and whether the tokenizer that is saved reads it as the one that read it (None: it is that).

    Text that a path was trained on, `seen`, is left out. The models write it where there is none and it takes some.
    """
    if not plan.data:
        if not plan.writes_text:
            return MergeText(), None
        return written_text(writer_of(inputs, plan, device, progress), inputs.context, plan.tokens), None
    progress.stage("reading text")
    fitted = fit_tokens(plan, recipe, inputs.context)

    def cut(text: Text | LabelledText, fit_tokens: int) -> tuple[Blocks, ...]:
        return text.blocks(
            fit_tokens=fit_tokens,
            select_tokens=plan.tokens,
            report_tokens=plan.tokens,
            seen=seen,
            report_on=plan.report_on,
        )

    text = _text(plan, inputs, inputs.first, inputs.tokenizer())
    _require_labels(plan.report_on, text.labels)
    refuse({f"the label '{WRITTEN}' is that of the models' own text: take another": WRITTEN in text.labels})
    parts = cut(text, fitted)

    def read_more(count: int) -> Sequence[Blocks]:
        progress.stage("reading more text")
        return cut(text, count)

    merge_text = MergeText(parts, None if fitted else read_more, plan.report_on)
    if inputs.growth is None:
        return merge_text, None
    owner = inputs.whole[inputs.growth.owner]
    try:
        again = cut(_text(plan, inputs, owner, owner.tokenizer()), fitted)
    except BadInput:  # the other tokenizer needs so much fewer tokens that there are too few
        return merge_text, False
    return merge_text, all(torch.equal(one.report, other.report) for one, other in zip(parts, again, strict=True))


def _require_labels(report_on: Sequence[str], labels: Sequence[str]) -> None:
    for label in report_on:
        if label not in labels:
            raise BadInput(f"--report-on {label}: there is no text of that label; there are: {', '.join(labels)}")
    if labels and set(labels) <= set(report_on):
        raise BadInput("--report-on leaves no text to select on: add --data, or leave it out for one label")


def _text(plan: MergePlan, inputs: Inputs, model: Checkpoint, tokenizer: Tokenizer) -> Text | LabelledText:
    return text_of_model(plan.data, tokenizer, model.config, context=inputs.context, seed=plan.seed)


def text_of_model(
    data: Sequence[str], tokenizer: Tokenizer, config: PretrainedConfig, *, context: int, seed: int
) -> Text | LabelledText:
    """The text for a model of this configuration: labelled for a classifier."""
    if task_of(config) in CLASSIFIERS:
        return LabelledText(data, tokenizer, config, context=context, seed=seed)
    return Text.of_model(data, tokenizer, config, context=context, seed=seed)


def tokens_per_label(labels: int) -> int:
    """The fit tokens of every label that models are looked at on."""
    return -(-ACTIVATION_TOKENS // max(1, labels))


def blocks_to_look_at(fit: Mapping[str, Tensor]) -> Tensor:
    """Blocks of `ACTIVATION_TOKENS` tokens of the fit text, as many of every label."""
    blocks = {label: -(-ACTIVATION_TOKENS // (len(fit) * rows.shape[1])) for label, rows in fit.items()}
    return stacked([rows[: blocks[label]] for label, rows in fit.items()])


def fit_tokens(plan: MergePlan, recipe: Recipe | None, context: int) -> int:
    """The tokens of every label that are fitted on or looked at, as far as that is settled beforehand."""
    labels = len(plan.fit_on) or len(plan.data) - len(plan.report_on)
    if isinstance(plan.path, CurvePlan):
        return plan.path.training.tokens(labels, context)
    if plan.alignment == "learned" and plan.path == "linear" and recipe is None:
        return plan.learn.training.tokens(labels, context)
    looks = (
        plan.refit
        or plan.alignment in LOOKING
        or (recipe is not None and (plan.alignment == "auto" or recipe.operator.knows is not None))
    )
    search = plan.weight_search
    learned = search.tokens(context) if search is not None and search.method == "gradient" else 0
    looked_at = tokens_per_label(labels) if looks and plan.data and plan.path == "linear" else 0
    aligned = plan.learn.training.tokens(labels, context) if plan.alignment == "learned" else 0
    return max(learned, looked_at, aligned)
