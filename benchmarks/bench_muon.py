"""A step of Muon in float32, on the hidden matrices of the embedded models, against torch's in bfloat16 (baseline)."""

from __future__ import annotations

import statistics
import time

import torch
from measurement import record

from isthmus.align.families import family
from isthmus.align.muon import Muon
from isthmus.lab.pretrain import small_config


def seconds(optimizer: torch.optim.Optimizer) -> float:
    start = time.perf_counter()
    optimizer.step()
    return time.perf_counter() - start


def main() -> None:
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(1)
    config = small_config()
    table = family(config)
    pieces = table.split(dict(GPT2LMHeadModel(config).named_parameters()))
    made = {"float32": Muon, "torch": torch.optim.Muon}
    optimizers = {}
    for name, kind in made.items():
        leaves = [pieces[key].detach().clone().requires_grad_() for key in table.matrices]
        for leaf in leaves:
            leaf.grad = torch.randn_like(leaf)
        optimizers[name] = kind(leaves, lr=0.01)
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(12):
        for name, optimizer in optimizers.items():
            times[name].append(seconds(optimizer))
    medians = {name: statistics.median(values[2:]) for name, values in times.items()}
    record(
        "muon",
        {
            "what": "one step of all hidden matrices of a GPT-2 of 4 layers and width 128, one core, median of 10",
            "baseline": "torch.optim.Muon, whose Newton-Schulz iteration is in bfloat16",
            "seconds": {name: round(value, 4) for name, value in medians.items()},
            "ratio": round(medians["float32"] / medians["torch"], 3),
            "bfloat16 in the processor": bool(torch.cpu.get_capabilities().get("avx512_bf16")),
        },
    )


if __name__ == "__main__":
    main()
