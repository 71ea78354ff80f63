"""A training step of a bend, and of a learned alignment, against a plain step of the same GPT-2 (the baseline).

Same batch, and for bends the same optimizer; a learned alignment has its own, and is held against AdamW.

The two are timed in turns, so that other load on the machine slows both. 4 layers, width 128, 32 blocks of 128.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from measurement import record
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from isthmus.align.families import family
from isthmus.align.pipeline import align_states
from isthmus.align.universe import Universe
from isthmus.checkpoint.loading import Checkpoint, load
from isthmus.merge.path import Kind, WeightPath
from isthmus.merge.plans import OptimizerName
from isthmus.merge.training.fitting import movable
from isthmus.merge.training.optimizers import make_optimizers
from isthmus.merge.training.path_loss import PathModule

EMBEDDED = Path(__file__).parents[1] / "lab" / "checkpoints"
BATCH, ROUNDS = (32, 128), 15


def stepper(module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], loss: Callable[[], Tensor]) -> Callable:
    """One step: loss, gradients, clipping, update."""

    def step() -> None:
        loss().backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    return step


def seconds(step: Callable) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def compare(optimizer: OptimizerName, kind: Kind, bends: int) -> dict[str, float]:
    a, b = (load(EMBEDDED / name) for name in ("adamw-1", "muon-1"))
    state_a, state_b = dict(a.state), dict(b.state)
    line = WeightPath("linear", state_a, state_b)
    starts = tuple(dict(line(i / (bends + 1))) for i in range(1, bends + 1))
    curve = PathModule(WeightPath(kind, state_a, state_b, starts), a.config)
    matrices = family(a.config).matrices
    return beside_plain(
        a, optimizer, curve, make_optimizers(optimizer, curve.leaves(), matrices, lr=1e-4, adamw_lr=1e-4), BATCH
    )


def compare_learned(blocks: int) -> dict[str, float]:
    a, b = (load(EMBEDDED / name) for name in ("adamw-1", "muon-1"))
    states = dict(a.state), dict(b.state)
    closed = Universe.of_pair(align_states(*states, a.config))
    ends, moving = movable(closed, states, {"x": torch.randint(1024, (128, BATCH[1]))})
    line = PathModule(WeightPath.line(ends), closed.config, moving)
    return beside_plain(a, "adamw", line, moving.optimizers(), (blocks, BATCH[1]))


def beside_plain(
    plain: Checkpoint,
    optimizer: OptimizerName,
    path: PathModule,
    optimizers: Sequence[torch.optim.Optimizer],
    batch: tuple[int, int],
) -> dict[str, float]:
    """Seconds of a step of a path and of a plain model, taken in turns, and their ratio."""
    table, ids = family(plain.config), torch.randint(1024, batch)
    given = torch.arange(batch[0]) % 2 == 0
    model = AutoModelForCausalLM.from_config(plain.config, dtype=torch.float32)
    model.load_state_dict(dict(plain.state), strict=False)
    inside = {name: leaf for name, leaf in model.named_parameters() if leaf.requires_grad}
    hidden = {table.pieces[name].parameter for name in table.matrices}
    plainly = make_optimizers(optimizer, [inside], hidden, lr=1e-4, adamw_lr=1e-4)
    ts = torch.linspace(0.05, 0.95, ROUNDS + 2).tolist()
    steps = (
        stepper(model, plainly, lambda: model(ids, labels=ids, use_cache=False).loss),
        stepper(path, optimizers, lambda: path(ids, given, ts.pop())),
    )
    rounds = [[seconds(step) for step in steps] for _ in range(ROUNDS + 2)][2:]
    plain_time, own_time = (statistics.median(times) for times in zip(*rounds, strict=True))
    return {"plain": round(plain_time, 3), "own": round(own_time, 3), "ratio": round(own_time / plain_time, 3)}


def main() -> None:
    cases: tuple[tuple[OptimizerName, Kind, int], ...] = (
        ("adamw", "polychain", 1),
        ("muon", "polychain", 1),
        ("lion", "polychain", 1),
        ("adamw", "polychain", 3),
        ("adamw", "bezier", 3),
    )
    timings = {
        f"a step of a curve ({optimizer}, {kind}, bends: {bends})": compare(optimizer, kind, bends)
        for optimizer, kind, bends in cases
    }
    for blocks in (8, 32):
        timings[f"a step of a learned alignment, {blocks} blocks"] = compare_learned(blocks)
    record(
        "bends",
        {
            "what": "seconds of a training step, 4-layer width-128 GPT-2, blocks of 128 tokens (32), median of 15",
            "baseline": "a plain training step of the same GPT-2 with the same optimizer, or AdamW",
            "cases": timings,
        },
    )


if __name__ == "__main__":
    main()
