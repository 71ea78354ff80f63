"""What a merge is made of, on one device: aligning, a step of a learned alignment and of a bend, losses, spectra.

    python bench_devices.py [--device cuda] [--sizes small medium large]

Two random GPT-2s of every size, and one table. By default it is the device that `isthmus merge` would take, and all
sizes on a GPU, else the smallest. Beside a loss stands a forward pass alone, and beside a step of a path a plain
training step of the same model on the same text. Alignments and spectra are computed on the processor, always.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from bench_bends import stepper
from measurement import record
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from isthmus.align.families import family
from isthmus.align.pipeline import Aligned, align_states
from isthmus.align.symmetry import State
from isthmus.align.universe import Universe
from isthmus.eval.loss import LossMeter
from isthmus.eval.spectrum import singular_values
from isthmus.merge.job import pick_device
from isthmus.merge.path import WeightPath
from isthmus.merge.training.fitting import movable
from isthmus.merge.training.optimizers import make_optimizers
from isthmus.merge.training.path_loss import PathModule

SIZES = {"small": (768, 12), "medium": (1024, 24), "large": (1280, 36)}  # width and layers
BLOCKS, CONTEXT, ROUNDS = 4, 256, 3
COLUMNS = ("size", "align", "learned step", "bend step", "plain step", "loss", "forward pass", "spectrum")


def timed(run: Callable[[], object], device: str, rounds: int = ROUNDS) -> float:
    """Seconds, the median of some rounds after a first one."""
    taken = []
    for _ in range(rounds + 1):
        wait(device)
        began = time.perf_counter()
        run()
        wait(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def wait(device: str) -> None:
    """Until the device has done all that it was told."""
    if device != "cpu":
        torch.accelerator.synchronize()


def config_of(size: str) -> GPT2Config:
    width, layers = SIZES[size]
    return GPT2Config(n_embd=width, n_layer=layers, n_head=width // 64)


def state_of(size: str, seed: int) -> State:
    torch.manual_seed(seed)
    return {name: weight.detach() for name, weight in GPT2LMHeadModel(config_of(size)).named_parameters()}


def spectra(state: State, config: GPT2Config) -> None:
    """Of every matrix."""
    table = family(config)
    for matrix in table.measured({name: table.piece(state, name) for name in table.matrices}).values():
        singular_values(matrix)


def step_of(module: PathModule, optimizers: Sequence[torch.optim.Optimizer], ids: Tensor, device: str) -> float:
    """Seconds of a step of a path, between its endpoints."""
    there, given = ids.to(device), torch.arange(len(ids), device=device) % 2 == 0
    return timed(stepper(module, optimizers, lambda: module(there, given, 0.4)), device)


def learned_step(pair: Aligned, states: Sequence[State], ids: Tensor, device: str) -> float:
    ends, moving = movable(Universe.of_pair(pair), states, {"x": ids})
    line = PathModule(WeightPath.line(ends), pair.config, moving).to(device)
    return step_of(line, moving.optimizers(), ids, device)


def bend_step(states: Sequence[State], config: GPT2Config, ids: Tensor, device: str) -> float:
    a, b = states
    bend = dict(WeightPath("linear", a, b)(0.5))
    curve = PathModule(WeightPath("polychain", a, b, (bend,)), config).to(device)
    adamw = make_optimizers("adamw", curve.leaves(), family(config).matrices, lr=1e-4, adamw_lr=1e-4)
    return step_of(curve, adamw, ids, device)


def plain(config: GPT2Config, ids: Tensor, device: str) -> dict[str, float]:
    """Seconds of a training step, and of a forward pass, by transformers alone."""
    model, there = AutoModelForCausalLM.from_config(config).to(device), ids.to(device)
    adamw = [torch.optim.AdamW(model.parameters(), lr=1e-4)]
    step = timed(stepper(model, adamw, lambda: model(there, labels=there, use_cache=False).loss), device)
    with torch.no_grad():
        return {"plain step": step, "forward pass": timed(lambda: model(there), device)}


def measured(size: str, device: str) -> dict[str, float]:
    """Seconds of each."""
    config, states = config_of(size), [state_of(size, seed) for seed in (0, 1)]
    ids = torch.randint(config.vocab_size, (BLOCKS, CONTEXT), generator=torch.Generator().manual_seed(0))
    began = time.perf_counter()
    pair = align_states(*states, config)
    seconds = {"align": time.perf_counter() - began}
    seconds["learned step"] = learned_step(pair, states, ids, device)
    del pair
    seconds["bend step"] = bend_step(states, config, ids, device)
    meter = LossMeter(config, {"x": ids}, device=device)
    seconds["loss"] = timed(lambda: meter(states[0]), device)
    seconds["spectrum"] = timed(lambda: spectra(states[0], config), device, rounds=1)
    return {name: round(value, 3) for name, value in (seconds | plain(config, ids, device)).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="by default all on a GPU, else small")
    chosen = parser.parse_args()
    device = pick_device(chosen.device)
    rows = {size: measured(size, device) for size in chosen.sizes or (SIZES if device != "cpu" else ("small",))}
    record(
        "devices",
        {
            "what": f"seconds of parts of a merge of two random GPT-2s, {BLOCKS} blocks of {CONTEXT} tokens",
            "baseline": "a plain training step, and a forward pass, of the same model on the same device",
            "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
            "sizes": rows,
        },
    )
    print("| " + " | ".join(COLUMNS) + " |\n|" + " ---: |" * len(COLUMNS))
    for size, row in rows.items():
        print("| " + " | ".join((size, *(f"{row[column]:g} s" for column in COLUMNS[1:]))) + " |")


if __name__ == "__main__":
    main()
