"""Everything that is shown, measured on the report text alone: profiles, the merge, its baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..align.universe import Universe
from ..checkpoint.config import build_config, run_alike
from ..checkpoint.inputs import Inputs
from ..checkpoint.loading import Checkpoint
from ..eval.accuracy import Accuracies, LogProbs, accuracy, ensemble_log_probs, label_log_probs
from ..eval.barrier import Profile, profile
from ..eval.loss import Losses, LossMeter, ensemble_losses, per_block, weighed
from ..eval.progress import Progress
from .path import WeightPath, blend
from .search import grid
from .simplex import Star
from .task_scores import TaskResults, scores_json
from .vocabulary import Whole, kept_rows, whole_state

if TYPE_CHECKING:
    from transformers import PretrainedConfig


ARM = (0.0, 0.25, 0.5, 0.75, 1.0)
Model = tuple[Mapping[str, Tensor], "PretrainedConfig"]


@dataclass(frozen=True)
class Profiles:
    """Losses along the line before alignment, `naive`, along the `line` after it, and along the `path`.

    They are the same object where they are the same line, all on the rows of the vocabulary that both models have.
    """

    naive: Profile
    line: Profile
    path: Profile


@dataclass(frozen=True)
class Accuracy:
    """Accuracies on the report examples, of what the losses of `Measured` are of; `baselines` has the naive average,
    the average after alignment, the ensemble, and the base where there is one.
    """

    members: tuple[Accuracies, ...]
    merge: Accuracies
    baselines: Mapping[str, Accuracies]

    @property
    def gain(self) -> Losses:
        """Accuracy of the merge − accuracy of the best model."""
        return self.merge - max(self.members, key=lambda one: one.mean)


@dataclass(frozen=True)
class Measured:
    """Losses of a merge on the report text; all blocks are the same, so that differences are paired.

    They are what users of the files see, with all rows of the vocabulary: `members` are the models as they are, each
    with its own configuration, which the merge is held against in `shares`; `naive` is their plain average, `average`
    that after alignment, both None where models are put together from layers or in stages; `merge` the merge as it is
    read back from disk; `ensemble` averages the probabilities of the members, None of a single one; `base` is what they
    were trained from, where there is one; `probe` is what other text says of the path (`isthmus.merge.probe`),
    `memorized` which text a model knows by heart (`isthmus.eval.memorization`), `quantized` what quantization cost one
    (`isthmus.eval.quantization`); `equal` is the same merge with equal weights, where they were chosen; `star` is what
    the arms of a star are like, from every model to the centre. `shared` is the merge on the shared rows, None where
    there are no others; `profiles` are those of a path, with the merge at `t`; `accuracy` is that of classifiers,
    `tasks` what all score on tasks.
    """

    members: tuple[Losses, ...]
    shares: tuple[float, ...]
    naive: Losses | None
    average: Losses | None
    merge: Losses
    ensemble: Losses | None
    base: Losses | None = None
    shared: Losses | None = None
    profiles: Profiles | None = None
    t: float | None = None
    accuracy: Accuracy | None = None
    probe: tuple[dict[str, Any], ...] = ()
    memorized: tuple[dict[str, Any], ...] = ()
    quantized: tuple[dict[str, Any], ...] = ()
    tasks: TaskResults | None = None
    equal: Losses | None = None
    star: tuple[dict[str, Any], ...] = ()

    @property
    def gain(self) -> Losses:
        """Loss of the best model − loss of the merge."""
        return min(self.members, key=lambda losses: losses.mean) - self.merge

    @property
    def excess(self) -> Losses:
        """Loss of the merge − the models' mean loss, each with its share."""
        return self.merge - weighed(self.members, self.shares)

    @property
    def gain_of_weights(self) -> Losses | None:
        """Loss with equal weights − loss of the merge; None where no weights were chosen."""
        return None if self.equal is None else self.equal - self.merge

    def report(self) -> dict[str, Any]:
        """The part of isthmus.json that holds losses."""
        heights = self._along_path() if self.profiles else self._among_models()
        merge: dict[str, Any] = {}
        if self.accuracy is not None:
            gain = self.accuracy.gain
            merge = {
                **accuracy_json(self.accuracy.merge),
                "accuracy_gain": gain.mean,
                "accuracy_gain_stderr": gain.stderr,
            }
            for name, own in self.accuracy.baselines.items():
                if name in heights["baselines"]:
                    heights["baselines"][name] |= accuracy_json(own)
        if self.tasks is not None:
            merge["tasks"] = self.tasks.of_merge()
            others = {"naive_average": self.tasks.naive, "ensemble": self.tasks.ensemble, "base": self.tasks.base}
            for name, scores in others.items():
                if scores is not None:
                    heights["baselines"][name]["tasks"] = scores_json(scores)
        return {
            **unmeasured(self.t),
            **heights,
            "tasks": list(self.tasks.tasks) if self.tasks else [],
            "probe": list(self.probe),
            "memorized": list(self.memorized),
            "quantized": list(self.quantized),
            "merge_point": {
                "t": self.t,
                **losses_json(self.merge),
                "excess": self.excess.mean,
                "excesses": _by_label(self.excess),
                "gain": self.gain.mean,
                "gain_stderr": self.gain.stderr,
                **merge,
            },
        }

    def _along_path(self) -> dict[str, Any]:
        assert self.profiles is not None
        assert self.naive is not None
        assert self.ensemble is not None
        path, line, naive = self.profiles.path, self.profiles.line, self.profiles.naive
        return {
            "profile": _profile_json(path),
            "line_profile": _profile_json(line),
            "naive_profile": _profile_json(naive),
            "barrier": path.barrier,
            "barriers": {label: path.label_barrier(label) for label in path.start.per_block},
            "line_barrier": line.barrier,
            "barrier_before_alignment": naive.barrier,
            "baselines": {"naive_average": losses_json(self.naive), "ensemble": losses_json(self.ensemble)},
        }

    def _among_models(self) -> dict[str, Any]:
        """The same of models without a path; the barrier is the excess, where that is positive."""
        mean = weighed(self.members, [1 / len(self.members)] * len(self.members))
        return {
            "barrier": max(0.0, self.excess.mean),
            "barrier_before_alignment": None if self.naive is None else max(0.0, (self.naive - mean).mean),
            "baselines": {
                **{
                    name: {**losses_json(one), "excess": (one - mean).mean}
                    for name, one in (("naive_average", self.naive), ("average", self.average))
                    if one is not None
                },
                **({"ensemble": losses_json(self.ensemble)} if self.ensemble else {}),
                **({"base": losses_json(self.base)} if self.base else {}),
                **({"equal_weights": losses_json(self.equal)} if self.equal else {}),
            },
        }

    def member_accuracies(self) -> list[dict[str, float]]:
        """Label → accuracy of every model; none of language models."""
        return [_by_label(one) for one in self.accuracy.members] if self.accuracy else []

    def member_scores(self) -> list[dict[str, dict[str, float]]]:
        """Task → score of every model; none where no tasks were run."""
        return [scores_json(scores) for scores in self.tasks.members] if self.tasks else []

    def member_losses(self) -> list[dict[str, float]]:
        """Label → loss of every model."""
        return [_by_label(losses) for losses in self.members]


def unmeasured(t: float | None) -> dict[str, Any]:
    """The part of isthmus.json that holds losses, where no text was given."""
    return {
        "profile": [],
        "line_profile": [],
        "naive_profile": [],
        "barrier": None,
        "line_barrier": None,
        "barrier_before_alignment": None,
        "merge_point": {"t": t, "loss": None, "excess": None, "gain": None, "gain_stderr": None},
        "baselines": {},
        "tasks": [],
        "probe": [],
        "memorized": [],
        "quantized": [],
    }


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


def rounded(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The state as it will be read back from disk."""
    return {name: state[name].to(dtype).float() for name in state}


def _by_label(losses: Losses) -> dict[str, float]:
    return {label: losses.label_mean(label) for label in losses.per_block}


def losses_json(losses: Losses) -> dict[str, Any]:
    """A mean over labels, its standard error, and the losses by label, JSON-ready."""
    return {"loss": losses.mean, "stderr": losses.stderr, "losses": _by_label(losses)}


def accuracy_json(accuracies: Accuracies) -> dict[str, Any]:
    """A mean over texts, its standard error, and the accuracies by text, JSON-ready."""
    return {
        "accuracy": accuracies.mean,
        "accuracy_stderr": accuracies.stderr,
        "accuracies": _by_label(accuracies),
    }


def _profile_json(measured: Profile) -> list[dict[str, Any]]:
    return [
        {
            "t": t,
            **losses_json(losses),
            "stderrs": {label: Losses({label: values}).stderr for label, values in losses.per_block.items()},
            "excess": measured.excess(t).mean,
        }
        for t, losses in measured.points
    ]
