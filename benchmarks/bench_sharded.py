"""A bend between two GPT-2s, trained by one process, and by two and four that share every weight (FSDP2, gloo).

Every process records its own peak of memory, of the whole job: opening, writing text, training, measuring and saving.
The models are random, 12 layers of width 1,024 (152M parameters, 0.6 GB in float32), aligned in no way; there are four
steps of eight blocks of 16 tokens, and little is measured, which takes most of the time, and little memory.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from measurement import record

EMBEDDED = Path(__file__).parents[1] / "lab" / "checkpoints" / "adamw-1"
OPTIONS = ["--data", "stdlib:docs:heldout", "--align", "none", "--tokens", "64", "--context", "16"]
OPTIONS += ["--steps", "4", "--batch", "8", "--bend-lr", "1e-4", "--path", "polychain"]
OPTIONS += ["--bend-start", "midpoint", "--no-spectrum", "--quiet"]
PROCESSES = (1, 2, 4)


def make(directory: Path, seed: int) -> None:
    """One random model with the embedded tokenizer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    vocabulary = json.loads((EMBEDDED / "config.json").read_text())["vocab_size"]
    config = GPT2Config(vocab_size=vocabulary, n_positions=128, n_embd=1024, n_layer=12, n_head=16)
    config.bos_token_id = config.eos_token_id = 0
    GPT2LMHeadModel(config).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / name, directory)


def run(arguments: list[str]) -> None:
    """The command line, in this process, whose peak of memory is written down as it ends."""

    end = os._exit

    def write(code: int) -> NoReturn:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        peaks = Path(os.environ["ISTHMUS_BENCH_PEAKS"], os.environ.get("RANK", "0"))
        peaks.write_text(str(int(line.split()[1]) * 1024))
        end(code)

    from isthmus.eval import memorization
    from isthmus.merge import plane, probe

    # Memory does not depend on how much is measured.
    memorization.BLOCKS, probe.TOKENS = 2, 32
    plane._measured.__kwdefaults__["resolution"] = 2
    os._exit = write  # the command line ends so, without finalizers
    sys.argv = ["isthmus", *arguments]
    runpy.run_module("isthmus", run_name="__main__")


@dataclass(frozen=True)
class Run:
    """Seconds, the peak of every process in bytes, and the losses on the path."""

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


def measured(work: Path, processes: int) -> Run:
    """The whole job by so many processes."""
    peaks, output = work / f"peaks-{processes}", work / f"path-{processes}"
    peaks.mkdir()
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)] * (processes > 1)
    command = [*(launch or [sys.executable]), __file__, "run", "merge", str(work / "a"), str(work / "b")]
    settings = {"ISTHMUS_BENCH_PEAKS": str(peaks), "ACCELERATE_USE_FSDP": "true", "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    subprocess.run([*command, "-o", str(output), *OPTIONS], check=True, env={**os.environ, **settings})
    seconds = time.perf_counter() - began
    report = json.loads((output / "isthmus.json").read_text())
    each = [int(file.read_text()) for file in sorted(peaks.iterdir())]
    return Run(seconds, each, [point["loss"] for point in report["profile"]])


def main() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("ISTHMUS_BENCH_DIR")) as folder:
        work = Path(folder)
        for seed, name in enumerate("ab"):
            make(work / name, seed)
        runs = {count: measured(work, count) for count in PROCESSES}
    record("sharded", {"processes": {str(count): run.beside(runs[1]) for count, run in runs.items()}})


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        run(sys.argv[2:])
    else:
        main()
