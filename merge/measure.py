"""Everything that is shown, measured on the report text alone: profiles, the merge, its baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.config import build_config, run_alike
from ..checkpoint.pair import Pair
from ..eval.barrier import Profile, profile
from ..eval.loss import Losses, LossMeter, ensemble_losses, per_block
from ..eval.text import Blocks
from .candidate import Candidate
from .path import WeightPath
from .point import grid
from .progress import Progress
from .vocabulary import Whole, kept_rows, whole_facts, whole_state


@dataclass(frozen=True)
class Measured:
    """Losses of a merge on the report text; all blocks are the same, so that differences are paired.

    `naive` is the profile of the line before alignment, `line` that after it, `path` that of the path; the same object
    where they are the same line. They are those of the rows of the vocabulary that both models have. All else is what
    users of the files see, with all rows: `ends` are A and B as they are, each with its own configuration, `average` is
    their naive average and `merge` the merge, both as they are read back from disk; `ensemble` averages the
    probabilities of A and B. `shared` is the merge on the shared rows, None where there are no others.
    """

    t: float
    naive: Profile
    line: Profile
    path: Profile
    ends: tuple[Losses, Losses]
    average: Losses
    merge: Losses
    ensemble: Losses
    shared: Losses | None = None

    @property
    def gain(self) -> Losses:
        """Loss of the better endpoint − loss of the merge."""
        return min(self.ends, key=lambda losses: losses.mean) - self.merge

    def report(self) -> dict[str, Any]:
        """The part of isthmus.json that holds losses."""
        excess = self.merge - self.ends[0].mixed(self.ends[1], self.t)
        return {
            "profile": _profile_json(self.path),
            "line_profile": _profile_json(self.line),
            "naive_profile": _profile_json(self.naive),
            "barrier": self.path.barrier,
            "line_barrier": self.line.barrier,
            "barrier_before_alignment": self.naive.barrier,
            "merge_point": {
                "t": self.t,
                **losses_json(self.merge),
                "excess": excess.mean,
                "excesses": _by_label(excess),
                "gain": self.gain.mean,
                "gain_stderr": self.gain.stderr,
            },
            "baselines": {
                "naive_average": losses_json(self.average),
                "ensemble": losses_json(self.ensemble),
            },
        }

    def endpoint_losses(self) -> tuple[dict[str, float], dict[str, float]]:
        """Label → loss of A, and of B."""
        return _by_label(self.ends[0]), _by_label(self.ends[1])


@dataclass(frozen=True)
class Among:
    """Losses of a merge of any number of models on the report text, all on the same blocks.

    `members` are those of the models, which the merge is held against in `shares`; `naive` and `average` are their
    plain averages before and after alignment, `base` is what they were trained from, where there is one.
    """

    members: tuple[Losses, ...]
    shares: tuple[float, ...]
    base: Losses | None
    naive: Losses
    average: Losses
    merge: Losses
    ensemble: Losses

    @property
    def gain(self) -> Losses:
        """Loss of the best model − loss of the merge."""
        return min(self.members, key=lambda losses: losses.mean) - self.merge

    @property
    def excess(self) -> Losses:
        """Loss of the merge − the models' mean loss, each with its share."""
        return self.merge - weighed(self.members, self.shares)

    def report(self) -> dict[str, Any]:
        """The part of isthmus.json that holds losses; the barrier is the excess, where that is positive."""
        even = [1 / len(self.members)] * len(self.members)
        mean = weighed(self.members, even)
        return {
            **unmeasured(None),
            "barrier": max(0.0, self.excess.mean),
            "barrier_before_alignment": max(0.0, (self.naive - mean).mean),
            "merge_point": {
                "t": None,
                **losses_json(self.merge),
                "excess": self.excess.mean,
                "excesses": _by_label(self.excess),
                "gain": self.gain.mean,
                "gain_stderr": self.gain.stderr,
            },
            "baselines": {
                "naive_average": {**losses_json(self.naive), "excess": (self.naive - mean).mean},
                "average": {**losses_json(self.average), "excess": (self.average - mean).mean},
                "ensemble": losses_json(self.ensemble),
                **({"base": losses_json(self.base)} if self.base else {}),
            },
        }

    def endpoint_losses(self) -> list[dict[str, float]]:
        """Label → loss of every model."""
        return [_by_label(losses) for losses in self.members]


def weighed(losses: Sequence[Losses], shares: Sequence[float]) -> Losses:
    """Σ s_i L_i, block by block."""
    stacked = {label: torch.stack([one.per_block[label] for one in losses]) for label in losses[0].per_block}
    return Losses({label: torch.tensor(shares, dtype=rows.dtype) @ rows for label, rows in stacked.items()})


def unmeasured(t: float | None) -> dict[str, Any]:
    """The same part of isthmus.json where no text was given."""
    return {
        "profile": [],
        "line_profile": [],
        "naive_profile": [],
        "barrier": None,
        "line_barrier": None,
        "barrier_before_alignment": None,
        "merge_point": {"t": t, "loss": None, "excess": None, "gain": None, "gain_stderr": None},
        "baselines": {},
    }


def measure(
    chosen: Candidate,
    pair: Pair,
    t: float,
    state: Mapping[str, Tensor],
    whole: Whole,
    text: Sequence[Blocks],
    *,
    dtype: torch.dtype,
    device: str,
    progress: Progress,
) -> Measured:
    """Measure the lines before and after alignment, the path, the merge rounded to `dtype`, the ensemble.

    `state` is the merge on the shared rows of the vocabulary, `whole` as it is saved.
    """
    first, second = pair.first, pair.second
    parts = {part.label: part.report for part in text}
    ts = sorted({*grid(), round(t, 6)})
    aligned = chosen.aligned.alignment.method != "none"
    curved = bool(chosen.path.bends)
    passes = len(ts) * (1 + aligned + curved) + 1
    progress.stage("measuring on the report text", passes * sum(map(len, parts.values())))

    meter = LossMeter(first.config, parts, device=device, on_blocks=progress.advance)
    members = [meter.token_losses(first.state), meter.token_losses(second.state)]
    unaligned = WeightPath("linear", first.state, second.state)
    corners = Profile(((0.0, per_block(members[0])), (1.0, per_block(members[1]))))
    naive = corners.with_points((point, meter(unaligned(point))) for point in ts if 0 < point < 1)

    meter = LossMeter(chosen.aligned.config, parts, device=device, on_blocks=progress.advance)
    line = profile(chosen.line, meter, ts) if aligned else naive
    path = profile(chosen.path, meter, ts) if curved else line
    merged, average, shared = meter(rounded(state, dtype)), naive.at(0.5), None
    members = [
        own if run_alike(side, end) else LossMeter(side.config, parts, device=device).token_losses(side.state)
        for own, side, end in zip(members, pair.whole, (first, first), strict=True)
    ]
    if whole.rows:
        meter = LossMeter(build_config(whole.facts, "merge"), parts, device=device)
        merged, shared = meter(rounded(whole.state, dtype)), merged
        plain = whole_state(unaligned(0.5), kept_rows(pair, None))
        average = LossMeter(build_config(whole_facts(first.facts, pair), "average"), parts, device=device)(plain)
    ends = (per_block(members[0]), per_block(members[1]))
    return Measured(t, naive, line, path, ends, average, merged, ensemble_losses(members), shared)


def rounded(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The state as it will be read back from disk."""
    return {name: state[name].to(dtype).float() for name in state}


def _by_label(losses: Losses) -> dict[str, float]:
    return {label: losses.label_mean(label) for label in losses.per_block}


def losses_json(losses: Losses) -> dict[str, Any]:
    """A mean over labels, its standard error, and the losses by label, JSON-ready."""
    return {"loss": losses.mean, "stderr": losses.stderr, "losses": _by_label(losses)}


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
