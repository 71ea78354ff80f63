"""Everything that is shown, measured on the report text alone: profiles, the merge, its baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..align.universe import Universe
from ..checkpoint.config import build_config, run_alike
from ..checkpoint.inputs import Inputs
from ..checkpoint.loading import Checkpoint
from ..checkpoint.rows import ComputedState, rows_of
from ..eval.accuracy import LogProbs, accuracy, ensemble_log_probs, label_log_probs
from ..eval.barrier import Profile, profile
from ..eval.loss import Losses, LossMeter, ensemble_losses, per_block, weighed
from ..eval.progress import Progress
from .measured import Accuracy, Measured, Profiles
from .path import WeightPath, blend
from .search import grid
from .simplex import Star
from .vocabulary import Whole, kept_rows, whole_state

if TYPE_CHECKING:
    from transformers import PretrainedConfig


ARM = (0.0, 0.25, 0.5, 0.75, 1.0)
Model = tuple[Mapping[str, Tensor], "PretrainedConfig"]


class Measuring:
    """Measures models of one merge on its report text."""

    def __init__(self, inputs: Inputs, report: Mapping[str, Tensor], *, device: str, progress: Progress):
        self.inputs, self.report, self.device, self.progress = inputs, report, device, progress
        self.config = inputs.first.config

    def _begin(self, passes: int) -> None:
        self.progress.stage("measuring on the report text", passes * sum(map(len, self.report.values())))

    def _meter(self, config: PretrainedConfig) -> LossMeter:
        return LossMeter(config, self.report, device=self.device, on_blocks=self.progress.advance)

    def _silent_meter(self, config: PretrainedConfig) -> LossMeter:
        """The same for what the stage did not count."""
        return LossMeter(config, self.report, device=self.device)

    def along_path(
        self,
        path: WeightPath,
        aligned: Universe,
        t: float,
        state: Mapping[str, Tensor],
        whole: Whole,
        dtype: torch.dtype,
    ) -> Measured:
        """The lines before and after alignment, the path, the merge rounded to `dtype`, and its baselines.

        `state` is the merge on the shared rows of the vocabulary, `whole` as it is saved.
        """
        first, second = self.inputs.members
        ts = sorted({*grid(), round(t, 6)})
        is_aligned, is_curved = aligned.alignment.method != "none", bool(path.bends)
        self._begin(len(ts) * (1 + is_aligned + is_curved) + 1)
        meter = self._meter(self.config)
        ends = [meter.token_losses(side.state) for side in (first, second)]
        unaligned = WeightPath("linear", first.state, second.state)
        corners = Profile(((0.0, per_block(ends[0])), (1.0, per_block(ends[1]))))
        naive = corners.with_points((point, meter(unaligned(point))) for point in ts if 0 < point < 1)

        meter = self._meter(aligned.config)
        line_path = WeightPath.line(aligned.states)
        line = profile(line_path, meter, ts) if is_aligned else naive
        profiles = Profiles(naive, line, profile(path, meter, ts) if is_curved else line)
        merged, average, shared = meter(rounded(state, dtype)), naive.at(0.5), None
        own_states = self._as_measured(aligned, self.inputs.whole)
        members = [
            own
            if run_alike(side, first) and self.inputs.head is None
            else self._silent_meter(config).token_losses(of_side)
            for own, side, (of_side, config) in zip(ends, self.inputs.whole, own_states, strict=True)
        ]
        average_state = unaligned(0.5)
        if whole.rows:
            meter = self._silent_meter(build_config(whole.facts, "merge"))
            merged, shared = meter(rounded(whole.state, dtype)), merged
            plain = whole_state(average_state, kept_rows(self.inputs, None))
            average = self._silent_meter(build_config(self.inputs.facts(first.facts), "average"))(plain)
        return Measured(
            tuple(map(per_block, members)),
            (1 - t, t),
            average,
            line.at(0.5),
            merged,
            ensemble_losses(members),
            shared=shared,
            profiles=profiles,
            t=t,
            accuracy=self._accuracy(
                own_states,
                {"naive_average": (average_state, self.config), "average": (line_path(0.5), aligned.config)},
                (rounded(state, dtype), aligned.config),
            ),
        )

    def among_models(
        self, aligned: Universe, merged: Mapping[str, Tensor], shares: Sequence[float] | None, *, base: int
    ) -> Measured:
        """All models but the `base` (0 or 1 models), their averages, their ensemble and the merge, as it is saved."""
        states, moved_states = [m.state for m in self.inputs.members[base:]], aligned.states[base:]
        moved, even = aligned.alignment.method != "none", [1 / len(states)] * len(states)
        self._begin(len(states) + 2 + moved + base)
        meter = self._meter(self.config)
        first, models = self.inputs.first, self.inputs.members[base:]
        own_states = self._as_measured(aligned, self.inputs.members)[base:]
        alike = [run_alike(model, first) and self.inputs.head is None for model in models]
        meters = (meter if one else self._meter(config) for one, (_, config) in zip(alike, own_states, strict=True))
        members = [own.token_losses(state) for own, (state, _) in zip(meters, own_states, strict=True)]
        naive = meter(blend(states, even))
        base_losses = meter(first.state) if base else None
        meter = self._meter(aligned.config)
        average = meter(blend(moved_states, even)) if moved else naive
        losses = tuple(map(per_block, members))
        others = {
            "naive_average": (blend(states, even), self.config),
            "average": (blend(moved_states, even), aligned.config),
            **({"base": (first.state, self.config)} if base else {}),
        }
        return Measured(
            losses,
            tuple(shares or even),
            naive,
            average,
            meter(merged),
            ensemble_losses(members),
            base_losses,
            accuracy=self._accuracy(own_states, others, (merged, aligned.config)),
        )

    def of_state(self, state: Mapping[str, Tensor], config: PretrainedConfig) -> Losses:
        """The losses of one more state."""
        return self._silent_meter(config)(state)

    def arms(self, star: Star, config: PretrainedConfig) -> tuple[dict[str, Any], ...]:
        """Losses along the arm from every model to the centre of a star, at t = 1, and how far they lie above the mean
        of the models, each with its share of what that point stands for; JSON-ready.
        """
        arms, meter = range(len(star.ends)), self._meter(config)
        passes = (len(ARM) - 1) * len(arms) + 1
        self.progress.stage("measuring the arms of the star", passes * sum(map(len, self.report.values())))
        losses = {(arm, t): meter(star((arm, t))) for arm in arms for t in ARM if t < 1}
        losses |= dict.fromkeys([(arm, 1.0) for arm in arms], meter(star.centre))
        ends, found = [losses[arm, 0.0] for arm in arms], []
        for arm in arms:
            excesses = {t: losses[arm, t] - weighed(ends, star.shares((arm, t))) for t in ARM}
            points = [{"t": t, "loss": losses[arm, t].mean, "excess": excess.mean} for t, excess in excesses.items()]
            found.append({"points": points, "barrier": max(excess.mean for excess in excesses.values())})
        return tuple(found)

    def of_composed(self, merged: Mapping[str, Tensor], config: PretrainedConfig, *, base: int) -> Measured:
        """The models that layers or stages are made of, but the `base` (0 or 1), their ensemble, and the merge as it
        is saved. They may have other numbers of layers, so that there is no average of them.
        """
        models = self.inputs.members[base:]
        self._begin(len(models) + 1 + base)
        states = [self._meter(model.config).token_losses(model.state) for model in models]
        base_losses = self._meter(self.config)(self.inputs.first.state) if base else None
        losses = tuple(map(per_block, states))
        even = [1 / len(models)] * len(models)
        own: list[Model] = [(model.state, model.config) for model in models]
        others: dict[str, Model] = {"base": (self.inputs.first.state, self.config)} if base else {}
        return Measured(
            losses,
            tuple(even),
            None,
            None,
            self._meter(config)(merged),
            ensemble_losses(states) if len(models) > 1 else None,
            base_losses,
            accuracy=self._accuracy(own, others, (merged, config)),
        )

    def _as_measured(self, aligned: Universe, members: Sequence[Checkpoint]) -> list[Model]:
        """The models as they are; where all have the head of one, as they are aligned: it fits them only then."""
        if self.inputs.head is None:
            return [(member.state, member.config) for member in members]
        return [(state, aligned.config) for state in aligned.states]

    def _accuracy(
        self,
        members: Sequence[Model],
        others: Mapping[str, Model],
        merged: Model,
    ) -> Accuracy | None:
        """The accuracies of classifiers, of `others` by name; None of language models."""
        if not self.inputs.first.schema.classifies:
            return None

        def of(state: Mapping[str, Tensor], config: PretrainedConfig) -> LogProbs:
            return label_log_probs(state, config, self.report, device=self.device)

        own = [of(*member) for member in members]
        baselines = {name: accuracy(of(*one), self.report) for name, one in others.items()}
        baselines["ensemble"] = accuracy(ensemble_log_probs(own), self.report)
        return Accuracy(tuple(accuracy(one, self.report) for one in own), accuracy(of(*merged), self.report), baselines)


def rounded(state: Mapping[str, Tensor], dtype: torch.dtype) -> ComputedState:
    """The state as it will be read back from disk, tensor by tensor when looked up."""

    def rows(name: str, start: int, stop: int) -> Tensor:
        return rows_of(state, name, start, stop).to(dtype).float()

    return ComputedState(state, lambda name: state[name].to(dtype).float(), rows=rows)
