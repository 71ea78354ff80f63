"""Training a path: the mean loss over t is lowered on the fit text, while the endpoints compute what they compute.

What is trained are the bends, as pieces of the symmetry table, Q, K and V apart; the alignment of the endpoints, which
moves them without changing their functions (`isthmus.align.learned`); or both together, as Zhang et al. 2026 (arXiv
2605.09991) do. Every micro-batch gets one place on the path, a t; of the averages of more than two models, weights, or
an arm of their star and a t (`isthmus.merge.simplex`).

Processes, devices and precision are accelerate's business: every process draws the same batches and t, takes its share
of the rows, and the gradients are averaged. Where the weights are is that of `isthmus.merge.training.placement`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic

import torch
from torch import Tensor

from ...align.learned import LearnedAlignment
from ...checkpoint.errors import BadInput, TooLittleText
from ...eval.corpora import WRITTEN
from ...eval.processes import averaged, is_main, processes_of_job, several, sharding
from ...eval.progress import Progress
from ...eval.targets import IGNORED, predicted, stacked
from ..path import Averages
from ..plans import MAX_PASSES, PathTraining
from .path_loss import P, teachers
from .placement import Placement, Replicated, Sharded

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PretrainedConfig

    from ...align.alignment import Alignment
    from .training_state import TrainingState

EVALUATIONS = 12
SPACING = 64  # blocks that are trained on between two evaluations, at least: each takes as long as dozens


@dataclass(frozen=True)
class Trained(Generic[P]):
    """The best path that was seen, and how it came about. `alignments` say where all endpoints but the first then were,
    where that was learned.

    `history` has (steps done, mean training loss since the last entry, height on the select text); the first entry is
    the warm start. `best` is the number of steps of the path that is kept; `diverged` the step, counted from 1, at
    which the loss was no number any more.
    """

    path: P
    steps: int
    best: int
    diverged: int | None
    history: tuple[tuple[int, float | None, float], ...]
    alignments: tuple[Alignment, ...] = ()

    @property
    def alignment(self) -> Alignment:
        """The alignment of the second endpoint, which was learned."""
        return self.alignments[0]

    def record(self, planned: int) -> dict[str, Any]:
        """What the report says of a run of so many steps, JSON-ready."""
        names = ("step", "training_loss", "select_excess")
        return {
            "steps": self.steps,
            "asked_steps": planned,
            "best_step": self.best,
            "diverged_at": self.diverged,
            "history": [dict(zip(names, entry, strict=True)) for entry in self.history],
        }


class Batches:
    """The rows of every micro-batch of a run, and its place on the `path`; all from one seed.

    `fit` has the blocks of every label, (blocks, context). All labels have equal shares, evenly spread; every label's
    blocks are read in a new order on every pass. No label is read more than `MAX_PASSES` times: what it lacks, the text
    that the models have written (`WRITTEN`) adds, as often as it takes.

    Raises TooLittleText when a label lacks blocks and there is no such text.
    """

    def __init__(self, fit: Mapping[str, Tensor], training: PathTraining, path: Averages):
        generator = torch.Generator().manual_seed(training.seed)
        self.rows = stacked(list(fit.values()))
        self._given = torch.cat([torch.full((len(blocks),), label != WRITTEN) for label, blocks in fit.items()])
        draws: list[tuple[float, int]] = []  # when, and which row
        first = 0
        for label, count in _shares(fit, training).items():
            blocks = fit[label].shape[0]
            passes = [torch.randperm(blocks, generator=generator) for _ in range(-(-count // max(1, blocks)))]
            order = torch.cat(passes)[:count].tolist() if passes else []
            draws += [((number + 0.5) / count, first + row) for number, row in enumerate(order)]
            first += blocks
        self._order = torch.tensor([row for _, row in sorted(draws, key=lambda draw: draw[0])])
        self._size = training.batch // training.accumulate
        micro = training.steps * training.accumulate
        self._path = path
        self.places = path.places(micro, training.span or (0.0, 1.0), generator)

    def __getitem__(self, micro: int) -> tuple[dict[str, Tensor], Any]:
        """Micro-batch number `micro`: its `ids` (rows, context), which rows are `given`, the `teacher` of each (rows),
        and its place.

        A row is given where no model has written it.
        """
        chosen, place = self._order[micro * self._size : (micro + 1) * self._size], self.places[micro]
        teacher = teachers(self._path.shares(place), len(chosen))
        return {"ids": self.rows[chosen], "given": self._given[chosen], "teacher": teacher}, place


def _shares(fit: Mapping[str, Tensor], training: PathTraining) -> dict[str, int]:
    """How many blocks of every label a run reads: equally many, as far as there are enough."""
    wanted = -(-training.steps * training.batch // len(fit))
    shares = {label: min(wanted, int(MAX_PASSES * len(blocks))) for label, blocks in fit.items() if label != WRITTEN}
    if WRITTEN in fit:
        return {**shares, WRITTEN: training.steps * training.batch - sum(shares.values())}
    for label, count in shares.items():
        if count < wanted:
            blocks = fit[label]
            limit = int(MAX_PASSES * len(blocks) * len(fit) / training.batch)
            raise TooLittleText(
                f"the text '{label}' has {blocks.numel():,} tokens to train on, too few for "
                f"{training.steps} steps, which would read them {wanted / max(1, len(blocks)):.0f} times: give more "
                f"text{f', or take at most {limit} steps' if limit else ''}"
            )
    return shares


def train_path(
    path: P,
    config: PretrainedConfig,
    fit: Mapping[str, Tensor],
    height: Callable[[P], float],
    training: PathTraining,
    *,
    moving: LearnedAlignment | None = None,
    device: str = "cpu",
    run: TrainingState | None = None,
    progress: Progress | None = None,
) -> Trained[P]:
    """Train the bends of `path`, and its ends where they are `moving`, on `fit` blocks; the path of lowest `height`.

    The height is what the caller measures of a path, in nats: a barrier that may fall below 0, so that a path that has
    none can still get better. `run` is where the run is kept while it goes on, and resumed from. A run whose loss stops
    being a number ends there, with the best path so far.

    Raises BadInput for text that is too short for the steps, or a batch that the processes cannot share.
    """
    progress = progress or Progress()
    with run.claimed() if run is not None and is_main() else nullcontext():
        accelerator = accelerator_of(training, device, bends=len(path.bends))
        batches = Batches(fit, training, path)
        placement: type[Placement[P]] = Sharded if sharding() else Replicated
        placed = placement(accelerator, path, config, training, moving)
        if run is not None and run.exists():
            first, history, best, alignments = _resumed(run, placed, path, moving)
        else:
            # Ends that move are shared from now on, as those of later paths are.
            best = placed.now(path) if moving and sharding() else path
            first, history = 0, [(0, None, height(path))]
            alignments = moving.alignments() if moving else ()
        progress.advance(first)
        every, diverged = max(training.steps // EVALUATIONS, -(-SPACING // training.batch)), None
        losses: list[float] = []
        for step in range(first, training.steps):
            if _since_best(history[1:]) >= training.patience:  # steps may first lead up, and then below the start
                break
            placed.schedule.set(step)
            for micro in range(step * training.accumulate, (step + 1) * training.accumulate):
                rows, place = batches[micro]
                share = slice(accelerator.process_index, None, accelerator.num_processes)  # of every teacher's rows
                targets = int((predicted(rows["ids"]) != IGNORED).sum()) / accelerator.num_processes
                losses.append(placed.lower({name: part[share] for name, part in rows.items()}, place, targets))
            done = step + 1
            if not torch.isfinite(placed.clip()):
                diverged = done
                break
            for optimizer in placed.optimizers:
                optimizer.step()
                optimizer.zero_grad()
            if done % every == 0 or done == training.steps:
                newest = placed.now(path)
                reached = height(newest)
                if not math.isfinite(reached):
                    diverged = done
                    break
                history.append((done, averaged(sum(losses) / len(losses)), reached))
                losses.clear()
                if _since_best(history) == 0:
                    best, alignments = newest, moving.alignments() if moving else ()
                if run is not None:
                    states = tuple(dict(state) for state in (*best.bends, *(best.ends if moving else ())))
                    run.save(placed, done, history, states, alignments)
            progress.note(f"barrier {max(0.0, history[-1][2]):.3f}")
            progress.advance()
    lowest = min(history, key=lambda entry: entry[2])[0]
    return Trained(best, history[-1][0], lowest, diverged, tuple(history), alignments)


def accelerator_of(training: PathTraining, device: str, *, bends: int) -> Accelerator:
    """Processes, devices and precision. Raises BadInput for a precision or a batch that training cannot have."""
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState
    from accelerate.utils import GradientAccumulationPlugin

    if several():
        processes_of_job()
    AcceleratorState._reset_state()  # the precision of an earlier run in this process is not ours
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision=training.precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=training.accumulate),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=bends > 1, broadcast_buffers=False)],
    )
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise BadInput(f"bends are trained in float32 or bf16, not in {accelerator.mixed_precision}")
    share = training.accumulate * accelerator.num_processes
    if training.batch % share:
        raise BadInput(
            f"a batch of {training.batch} blocks cannot be shared by {accelerator.num_processes} processes with "
            f"--accumulate {training.accumulate}: take a multiple of {share}"
        )
    return accelerator


def _resumed(
    run: TrainingState, placed: Placement[P], path: P, moving: LearnedAlignment | None
) -> tuple[int, list[tuple[int, float | None, float]], P, tuple[Alignment, ...]]:
    """The steps that are done, the history, the best path so far, its alignments. Raises BadInput for another run."""
    first, history, states, alignments = run.load(placed)
    bends, ends = states[: len(path.bends)], states[len(path.bends) :]
    shapes = {name: tensor.shape for name, tensor in path.ends[-1].items()}
    complete = len(bends) == len(path.bends) and len(ends) == (len(path.ends) if moving else 0) and bool(history)
    known = len(alignments) == (len(path.ends) - 1 if moving else 0)
    if not complete or not known or any({n: s[n].shape for n in s} != shapes for s in states):
        raise run.damaged()
    return first, history, path.moved(ends or path.ends, bends), alignments


def _since_best(history: Sequence[tuple[int, Any, float]]) -> int:
    """How many evaluations there were after the one with the lowest height; 0 for none at all."""
    heights = [entry[2] for entry in history]
    return len(heights) - 1 - heights.index(min(heights)) if heights else 0
