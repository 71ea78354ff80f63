"""Two random checkpoints of the shape of Llama-2-7B, in bfloat16: checked, and averaged from disk to disk; the baseline
is copying one of them with cp. Whole processes, with peaks of memory.

Inputs are out of the page cache when a run begins, and outputs on the disk when it ends, as in `bench_large.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_large import Random, copy, forget, size
from measurement import Cost, measure, record

SHAPE = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "vocab_size": 32000}
LAYERS = 32


def make(directory: Path, seed: int) -> None:
    """One checkpoint."""
    import torch
    from transformers import LlamaConfig

    from isthmus.align.families import family
    from isthmus.checkpoint.serialization import save_small_files, save_weights

    config = LlamaConfig(**SHAPE, num_hidden_layers=LAYERS, num_key_value_heads=32, tie_word_embeddings=False)
    directory.mkdir()
    shapes = family(config).schema().shapes
    save_weights(directory, shapes, Random(shapes, seed), torch.bfloat16)
    facts = {**config.to_diff_dict(), "architectures": ["LlamaForCausalLM"]}
    save_small_files(directory, facts, {}, torch.bfloat16)


def run(*arguments: object, cold: tuple[Path, ...]) -> Cost:
    """The command line, with models that nobody has read."""
    forget(*cold)
    return measure([Path(sys.executable).parent / "isthmus", *arguments])


def main() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("ISTHMUS_BENCH_DIR")) as folder:
        work = Path(folder)
        ends, out = (work / "a", work / "b"), work / "merged"
        for seed, directory in enumerate(ends):  # each by a process of its own
            subprocess.run([sys.executable, __file__, directory, str(seed)], check=True)
        copied = copy(ends[0], out)
        subprocess.run(["rm", "-r", out], check=True)
        costs = {"check": run("check", *ends, cold=ends)}
        costs["average"] = run("merge", *ends, "-o", out, "--method", "linear", cold=ends)
        whole = size(ends[0])
    numbers = {
        name: {"seconds": round(cost.seconds, 1), "peak_GB": round(cost.peak / 1e9, 3)} for name, cost in costs.items()
    }
    # An average reads two files and writes one, where a copy reads one and writes one.
    numbers["average"]["beside_reading_and_writing"] = round(costs["average"].seconds / (1.5 * copied), 2)
    record("seven_billion", {"whole_GB": round(whole / 1e9, 2), "copy": round(copied, 1), **numbers})


if __name__ == "__main__":
    if len(sys.argv) == 3:
        make(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
