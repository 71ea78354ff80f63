"""How fast this machine does what a merge is made of: measured in a second or two, on a model of the same shape.

Of a large model, one and two layers stand for all: the time of the others is that of the second.
"""

from __future__ import annotations

import gc
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...align.alignment import Alignment
from ...align.assignment import LARGE, assignment
from ...align.families import family
from ...align.learned import LearnedAlignment
from ...checkpoint.lazy_state import LazyState
from ...checkpoint.model import empty_model
from ...checkpoint.task import CAUSAL, task_of
from ...eval.loss import LossMeter
from ...eval.samples import written_blocks
from ..job import Job
from ..path import Averages, WeightPath
from ..plans import OptimizerName, PathTraining
from ..simplex import Simplex, Star
from ..training.path_loss import PathModule
from ..training.placement import path_optimizers
from .work import Work

if TYPE_CHECKING:
    from transformers import PretrainedConfig

SMALL = 2e7  # weights of a model that is measured with all of its layers
WORTH = 0.08  # seconds that a measurement goes on for, at least once
EVALUATED = 6e9  # floating-point operations of one forward pass that is timed
TRAINED = 1.5e9  # of the forward passes of a training step
LARGEST = 4e8  # of one token through a model whose training is timed
MOMENTS, MANY = 6, 32  # tokens that are written one after the other, and texts at a time
MATRIX, ROWS, BYTES = 384, 512, 2**25  # sizes of the problems of algebra, of what is mixed, and of what is read


@dataclass(frozen=True)
class Trainee:
    """What is trained: bends of a path between some models, and their alignment where that is `moving`."""

    models: int
    bends: int
    moving: bool
    optimizer: OptimizerName


@dataclass(frozen=True)
class Memory:
    """Bytes that a training step keeps for its backward pass: by token, and besides, of moved weights."""

    by_token: float = 0.0
    besides: float = 0.0


def speed_of_model(
    config: PretrainedConfig, ids: Tensor, device: str, *, trainee: Trainee | None = None, writes: bool = False
) -> tuple[Work, Memory]:
    """The seconds that one of what models of this configuration do takes (`Work`), and what training keeps.

    `ids` are blocks of text (blocks, context) as the models are measured on; training is measured where there is a
    `trainee`, and writing where the merge `writes`.
    """
    whole = int(getattr(config, "num_hidden_layers", 1))
    depths = (whole,) if whole <= 2 or _weights(config) <= SMALL else (1, 2)
    rates, kept = [], []
    for depth in depths:
        model = _Shallow(config, depth, ids, device)
        speed, memory = model.evaluation(), Memory()
        if trainee is not None:
            training, memory = model.training(trainee, speed)
            speed += training
        if writes and model.writes:
            speed += model.writing()
        rates.append(speed)
        kept.append(memory)
        del model
        gc.collect()
    return _at_depth(rates, whole), _at_depth(kept, whole)


def _at_depth(measured: list[Any], depth: int) -> Any:
    """What was measured of one layer and of two, continued to more; or what was measured of all."""
    if len(measured) == 1:
        return measured[0]
    first, second = measured
    values = {}
    for one in fields(first):
        low, high = getattr(first, one.name), getattr(second, one.name)
        values[one.name] = low + (depth - 1) * max(0.0, high - low)
    return type(first)(**values)


def shallow(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    """The same architecture with fewer layers."""
    facts, whole = config.to_dict(), int(getattr(config, "num_hidden_layers", layers))
    if whole == layers:
        return config
    name = type(config).attribute_map.get("num_hidden_layers", "num_hidden_layers")
    facts[name] = layers
    for key, value in facts.items():
        if isinstance(value, list) and len(value) == whole:
            facts[key] = value[:layers]
    return type(config).from_dict(facts)


def _weights(config: PretrainedConfig) -> int:
    return sum(parameter.numel() for parameter in empty_model(config).parameters())


class _Shallow:
    """A model of random weights and a few layers."""

    def __init__(self, config: PretrainedConfig, layers: int, ids: Tensor, device: str):
        self.config, self.device, self.ids = shallow(config, layers), device, ids
        model = empty_model(self.config)
        generator = torch.Generator().manual_seed(0)
        self.state = {
            name: torch.randn(weight.shape, generator=generator).mul_(0.02) for name, weight in model.named_parameters()
        }
        self.writes = task_of(self.config) == CAUSAL
        # An embedding is looked up, and multiplied only where it gives logits, too.
        self.operations = 2.0 * sum(weight.numel() for weight in self.state.values())

    def rows(self, operations: float) -> Tensor:
        """Blocks of text that take about so many operations."""
        tokens = max(16, int(operations / self.operations))
        length = min(self.ids.shape[1], tokens) if self.writes else self.ids.shape[1]
        count = max(1, min(64, tokens // length))
        return self.ids[torch.arange(count) % len(self.ids)][:, :length]

    def evaluation(self) -> Work:
        """A forward pass, as losses are measured."""
        rows = self.rows(EVALUATED)
        meter = LossMeter(self.config, {"": rows}, device=self.device)
        return Work(evaluated=self._timed(lambda: meter(self.state)) / rows.numel())

    def _timed(self, run: Callable[[], object], *, warm: bool = False) -> float:
        return timed(run, self.device, warm=warm)

    def writing(self) -> Work:
        """Text that the model writes, one text alone and many."""

        def write(count: int) -> float:
            first, length = self.ids[:1, :1].repeat(count, 1), 1 + MOMENTS
            return self._timed(
                lambda: written_blocks(self.state, self.config, first, length, seed=0, device=self.device)
            )

        alone, many = write(1), write(MANY)
        return Work(written=max(0.0, many - alone) / ((MANY - 1) * MOMENTS), moments=alone / MOMENTS)

    def training(self, trainee: Trainee, evaluation: Work) -> tuple[Work, Memory]:
        """A step, and what it keeps for its backward pass; of a large model from the `evaluation` of one."""
        if self.operations > LARGEST:
            copies = 4.0 * self.operations / 2 * (trainee.models + trainee.bends) * 4
            return Work(trained=4 * evaluation.evaluated, moved=copies), Memory()
        step = _Step(self, trainee)
        few, many = self._two_lengths()
        kept_of_many, kept_of_few = step.kept(many), step.kept(few)
        long, short = (self._timed(partial(step, rows), warm=True) for rows in (many, few))
        more = many.numel() - few.numel()
        by_token, kept = max(0.0, long - short) / more, max(0.0, kept_of_many - kept_of_few) / more
        rate = Work(trained=by_token, steps=max(0.0, long - by_token * many.numel()))
        return rate, Memory(kept, max(0.0, kept_of_many - kept * many.numel()))

    def _two_lengths(self) -> tuple[Tensor, Tensor]:
        many = self.rows(TRAINED)
        if len(many) >= 4 or not self.writes:
            many = many if len(many) >= 2 else many.repeat(2, 1)
            return many[: len(many) // 4 or 1], many
        return many[:1, : max(4, many.shape[1] // 4)], many


class _Step:
    """A whole training step of a shallow model on blocks of text; called with these."""

    def __init__(self, model: _Shallow, trainee: Trainee):
        ends = tuple(dict(model.state) for _ in range(trainee.models))
        path, self.place = _path(trainee, ends, model.state)
        moving = None
        if trainee.moving:
            table = family(model.config).untied()
            starts = [Alignment("orthogonal", table.identity())] * (trainee.models - 1)
            moving = LearnedAlignment(starts, table)
        self.device = model.device
        self.module = PathModule(path, model.config, moving).to(self.device)
        settings = PathTraining(optimizer=trainee.optimizer)
        self.optimizers = path_optimizers(self.module, settings, model.config)

    def _loss(self, rows: Tensor) -> Tensor:
        loss: Tensor = self.module(rows.to(self.device), torch.zeros(len(rows), device=self.device), self.place)
        return loss

    def __call__(self, rows: Tensor) -> None:
        """One step."""
        self._loss(rows).backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def kept(self, rows: Tensor) -> float:
        """One step, and the bytes that it kept for its backward pass."""
        bytes_of: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            bytes_of[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            self(rows)
        return float(sum(bytes_of.values()))


def _path(
    trainee: Trainee, ends: tuple[Mapping[str, Tensor], ...], state: Mapping[str, Tensor]
) -> tuple[Averages, Any]:
    """A path like the one that is trained, and a place on it at which all of its points have a weight."""
    bends = tuple(dict(state) for _ in range(trainee.bends))
    if trainee.models == 2:
        a, b = ends
        return WeightPath("polychain" if bends else "linear", a, b, bends), 0.45 / (trainee.bends + 1)
    shares = (1 / len(ends),) * len(ends)
    return (Star(ends, bends, shares), (0, 0.45)) if bends else (Simplex(ends), shares)


def speed_of_algebra() -> Work:
    """The same of what the processor does, whatever the models."""
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(2 * ROWS, 2 * ROWS, generator=generator)
    exact = torch.randn(MATRIX, MATRIX, generator=generator, dtype=torch.float64)
    similarity = square[:LARGE, :LARGE]
    large = torch.ones(BYTES // 4)
    return Work(
        products=timed(lambda: square @ square) / (2 * float(len(square)) ** 3),
        singular=timed(lambda: torch.linalg.svd(exact)) / float(MATRIX) ** 3,
        assigned=timed(lambda: assignment(similarity)) / float(LARGE) ** 2,
        moved=timed(lambda: torch.lerp(large, large, 0.5)) / (2 * BYTES),
        fixed=1.0,
    )


def speed_of_disk(job: Job) -> Work:
    """The same of reading the first of some models, and of writing files."""
    first = job.inputs.first
    shapes = first.schema.shapes
    name = max(shapes, key=lambda name: math.prod(shapes[name]))
    rows = max(1, min(shapes[name][0], BYTES * shapes[name][0] // (4 * math.prod(shapes[name]))))
    read = first.dtype.itemsize * rows * math.prod(shapes[name][1:])
    content = bytes(BYTES)

    def write() -> None:
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    some = first.state.first_rows if isinstance(first.state, LazyState) else None
    reading = timed(lambda: some(name, rows) if some else first.state[name]) / read
    return Work(read=reading, stored=timed(write) / BYTES)


def timed(run: Callable[[], object], device: str = "cpu", *, warm: bool = False) -> float:
    """Seconds that something takes, the fastest of some runs, after a first one unless that is done: it is `warm`."""
    if not warm:
        run()
    taken: list[float] = []
    while not taken or sum(taken) < WORTH:
        _wait(device)
        began = time.perf_counter()
        run()
        _wait(device)
        taken.append(time.perf_counter() - began)
    return min(taken)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
