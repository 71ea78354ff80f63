"""What was measured on the report text, and what isthmus.json says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..eval.accuracy import Accuracies
from ..eval.barrier import Profile
from ..eval.loss import Losses, weighed
from .task_scores import TaskResults, scores_json


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
