"""The amounts that the work of a merge hangs on: bytes of models, tokens of text, what is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from ...align.alignment import Alignment
from ...align.families import family
from ...align.symmetry import Family
from ...eval.fingerprint import optimizer_of
from ...eval.loss import LOGITS_AT_ONCE
from ..job import Job
from ..plans import CurvePlan
from ..reading import MergeText
from .speed import Memory, Trainee

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FLOAT32 = 4.0
MIDDLE = 16  # numbers of a token beside its logits, as a multiple of the width: four copies of an MLP's


@dataclass(frozen=True)
class Amounts:
    """What goes into one merge: a job, and its text, which is `enough` to learn an alignment on or not; and the bytes
    and tokens that follow. `kept` is what training keeps for its backward pass.
    """

    job: Job
    text: MergeText
    enough: bool = True
    kept: Memory = field(default_factory=Memory)

    @cached_property
    def models(self) -> int:
        """All models, the base among them."""
        return len(self.job.inputs.members)

    @cached_property
    def ends(self) -> int:
        """The models that are merged."""
        return len(self.job.ends)

    @cached_property
    def table(self) -> Family | None:
        """The symmetry table of the models, where their architecture has one."""
        return family(self.job.inputs.first.config) if self.job.in_table else None

    @cached_property
    def state(self) -> float:
        """Bytes of one model's weights in memory."""
        return FLOAT32 * sum(math.prod(shape) for shape in self.job.inputs.first.schema.shapes.values())

    @cached_property
    def largest(self) -> float:
        """The same of its largest tensor."""
        return FLOAT32 * max(math.prod(shape) for shape in self.job.inputs.first.schema.shapes.values())

    @cached_property
    def aligned(self) -> float:
        """The same of an aligned model, with an unembedding of its own and wider MLPs where there is a budget."""
        if self.table is None:
            return self.state
        whole = FLOAT32 * sum(math.prod(shape) for shape in self.table.untied().schema().shapes.values())
        return whole * (1 + 0.5 * (self.job.plan.budget - 1))

    @property
    def config(self) -> PretrainedConfig:
        """The configuration that most is done with: of aligned models, where there are any."""
        config = self.job.inputs.first.config
        if self.table is None or self.job.plan.alignment == "none":
            return config
        return Alignment("orthogonal").config(config)

    @cached_property
    def context(self) -> int:
        """Tokens of a block."""
        return self.job.inputs.context

    @cached_property
    def labels(self) -> int:
        """Labels that are fitted to and chosen on."""
        return max(1, len(self.text.labels))

    @cached_property
    def writes(self) -> bool:
        """Whether the models write text."""
        return self.job.inputs.first.schema.writes

    def _tokens(self, blocks: Mapping[str, Tensor]) -> float:
        """Tokens of text, or those that will be written where there is none."""
        given = sum(rows.numel() for rows in blocks.values())
        return float(given or (self.job.plan.tokens if self.job.plan.writes_text else 0))

    @cached_property
    def select(self) -> float:
        """Tokens that are chosen by."""
        return self._tokens(self.text.select)

    @cached_property
    def report(self) -> float:
        """Tokens that are reported on."""
        return self._tokens(self.text.report)

    @cached_property
    def held(self) -> float:
        """Bytes of the models as they are read."""
        return self.models * self.state * (2 if self.job.inputs.growth is not None else 1)

    @cached_property
    def forward(self) -> float:
        """Bytes that one forward pass needs: a state that is mixed, and the logits with a copy or with what a layer has
        in the middle of its MLP.
        """
        config = self.job.inputs.first.config
        vocabulary = int(config.vocab_size)
        tokens = min(max(LOGITS_AT_ONCE / vocabulary, self.context), max(self.select, self.report, 1))
        beside = max(vocabulary, MIDDLE * getattr(config, "hidden_size", 0))
        return FLOAT32 * tokens * (vocabulary + beside) + self.aligned

    @property
    def is_curve(self) -> bool:
        """Whether the path has bends, trained now or before."""
        return self.job.plan.path != "linear"

    @property
    def learns(self) -> bool:
        """Whether an alignment is learned for a straight line or for averages."""
        plan = self.job.plan
        if plan.path != "linear" or self.table is None:
            return False
        if self.job.recipe is not None:
            return plan.alignment == "learned"
        weights = int(self.state / FLOAT32)
        return plan.alignment == "learned" or (
            plan.alignment == "auto"
            and bool(self.text)
            and self.enough
            and self.job.inputs.head is None
            and plan.learn.affordable(weights, self.context, self.job.device)
        )

    @property
    def trainee(self) -> Trainee | None:
        """What is trained."""
        plan, ends = self.job.plan, self.ends
        if isinstance(plan.path, CurvePlan):
            documented = self.job.inputs.provenance[self.job.base :]
            curve = plan.path.for_endpoints([optimizer_of(evidence, None).optimizer for evidence in documented])
            assert curve.optimizer != "auto"
            return Trainee(ends, curve.bends if ends == 2 else 1, plan.alignment == "learned", curve.optimizer)
        return Trainee(ends, 0, True, "adamw") if self.learns else None

    @property
    def universe(self) -> float:
        """Bytes that the models and the aligned ones take."""
        aligns = self.job.plan.alignment != "none" and self.table is not None
        return self.held + (self.models * self.aligned if aligns else 0.0)
