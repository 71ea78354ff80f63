"""A bend between two GPT-2s, and their alignment on the straight line, trained by one process, and by two and four that
share every weight (FSDP2, gloo).

The models are random, 12 layers of width 1,024 (153M parameters, 0.6 GB in float32), and stay on the disk until they
are read; there are four steps of AdamW with eight blocks of 16 tokens, and the losses of five points of the path before
and after. Every process records its peak of memory. What a merge does besides, as writing text and a report, is left
out: it takes most of the time, and less memory.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from measurement import record

PROCESSES = (1, 2, 4)
BLOCKS, CONTEXT, STEPS, BATCH = 64, 16, 4, 8
POINTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def make(directory: Path, seed: int) -> None:
    """One random model, in canonical form: with an unembedding of its own."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from isthmus.align.alignment import Alignment
    from isthmus.align.canonical import canonical
    from isthmus.align.families import family
    from isthmus.checkpoint.serialization import save_small_files, save_weights

    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=1024, n_positions=128, n_embd=1024, n_layer=12, n_head=16)
    config.bos_token_id = config.eos_token_id = 0
    state = canonical(dict(GPT2LMHeadModel(config).named_parameters()), family(config))
    untied = Alignment("learned").config(config)
    directory.mkdir()
    save_weights(directory, family(untied).schema().shapes, state, torch.float32)
    facts = {**untied.to_diff_dict(), "architectures": ["GPT2LMHeadModel"]}
    save_small_files(directory, facts, {}, torch.float32)


def train(what: str, work: Path, out: Path) -> None:
    """What every process does, for a bend or an alignment.

    Each writes down its peak of memory, and all the losses, which are the same.
    """
    import torch

    from isthmus.align.alignment import Alignment
    from isthmus.align.families import family
    from isthmus.align.learned import LearnedAlignment
    from isthmus.checkpoint.loading import load
    from isthmus.eval.loss import LossMeter
    from isthmus.eval.processes import processes_of_job, several, sharding
    from isthmus.eval.sharded import sharded_model
    from isthmus.merge.path import WeightPath
    from isthmus.merge.plans import PathTraining
    from isthmus.merge.training.path_training import train_path

    if several():
        processes_of_job()
    a, b = (load(work / name) for name in "ab")
    blocks = torch.randint(1024, (BLOCKS, CONTEXT), generator=torch.Generator().manual_seed(0))
    path, moving = WeightPath("linear", a.state, b.state), None
    if what == "bend":
        middle = path(0.5)
        bend = sharded_model(a.config).shared_in_turn(middle) if sharding() else dict(middle)
        path = WeightPath("polychain", a.state, b.state, (bend,))
    else:
        table = family(a.config)
        moving = LearnedAlignment((Alignment("orthogonal", table.identity()),), table)
    meter = LossMeter(a.config, {"x": blocks[:BATCH]})

    def losses(path: WeightPath) -> list[float]:
        return [meter(path(t)).mean for t in POINTS]

    training = PathTraining(steps=STEPS, batch=BATCH, optimizer="adamw", lr=1e-4)
    trained = train_path(path, a.config, {"x": blocks}, lambda path: sum(losses(path)), training, moving=moving)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert trained.best > 0, "the path that is measured is one that was trained"
    result = {"peak": peak, "losses": losses(path) + losses(trained.path)}
    (out / os.environ.get("RANK", "0")).write_text(json.dumps(result))


@dataclass(frozen=True)
class Run:
    """Seconds, the peak of every process in bytes, and the losses of points before and after."""

    seconds: float
    peaks: list[int]
    losses: list[float]

    def beside(self, alone: Run) -> dict[str, object]:
        """JSON-ready, with the highest peak as a share of that of one process, and how far the losses are apart."""
        return {
            "seconds": round(self.seconds, 1),
            "peak_GB": [round(peak / 1e9, 3) for peak in self.peaks],
            "memory_ratio": round(max(self.peaks) / max(alone.peaks), 3),
            "apart": max(abs(mine - theirs) for mine, theirs in zip(self.losses, alone.losses, strict=True)),
        }


def measured(what: str, work: Path, processes: int) -> Run:
    """The whole job by so many processes."""
    out = work / f"{what}-{processes}"
    out.mkdir()
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] * (processes > 1)
    settings = {"ACCELERATE_USE_FSDP": "true", "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    command = [sys.executable, *launch, __file__, what, str(work), str(out)]
    subprocess.run(command, check=True, env={**os.environ, **settings})
    seconds = time.perf_counter() - began
    each = [json.loads(file.read_text()) for file in sorted(out.iterdir())]
    return Run(seconds, [one["peak"] for one in each], each[0]["losses"])


def main() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("ISTHMUS_BENCH_DIR")) as folder:
        work = Path(folder)
        for seed, name in enumerate("ab"):
            make(work / name, seed)
        runs = {what: {count: measured(what, work, count) for count in PROCESSES} for what in ("bend", "alignment")}
    record(
        "sharded",
        {
            "what": "a bend between two GPT-2s of 153M parameters, and a learned alignment of them, by processes that "
            "share every weight, whole process",
            "baseline": "one process, which has all weights",
            **{what: {str(n): run.beside(by[1]) for n, run in by.items()} for what, by in runs.items()},
        },
    )


if __name__ == "__main__":
    if len(sys.argv) == 4:
        train(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
