"""A linear merge of two checkpoints of 4 GB, whole process; the baseline is copying one of them with cp.

Both start with their inputs out of the page cache and end with their output on the disk. Speeds are bytes read and
written over seconds: the merge reads two checkpoints and writes one, the copy reads one and writes one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from measurement import measure, record

CONFIG = {"n_embd": 2048, "n_layer": 18, "n_head": 16}
RUNS = 3


class Random(Mapping[str, object]):
    """A state of random numbers, made block by block."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], seed: int):
        self.shapes, self.seed = shapes, seed

    def blocks(self, name: str) -> Iterator[object]:
        import torch

        from isthmus.checkpoint.rows import row_counts

        torch.manual_seed(self.seed * len(self) + list(self).index(name))
        for rows in row_counts(self.shapes[name]):
            yield 0.02 * torch.randn(rows, *self.shapes[name][1:])

    def __getitem__(self, name: str) -> object:
        raise AssertionError("in blocks only")

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def make(directory: Path, seed: int) -> None:
    """One checkpoint."""
    import torch
    from transformers import GPT2Config

    from isthmus.align.families import family
    from isthmus.checkpoint.serialization import save_small_files, save_weights

    config = GPT2Config(**CONFIG)
    directory.mkdir()
    shapes = family(config).schema().shapes
    save_weights(directory, shapes, Random(shapes, seed), torch.float32)
    save_small_files(directory, config.to_diff_dict(), {}, torch.float32)  # as save_pretrained does


def forget(*directories: Path) -> None:
    """Bring files to the disk and out of memory."""
    os.sync()
    for path in (path for directory in directories for path in directory.iterdir()):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def copy(source: Path, target: Path) -> float:
    """Seconds to copy a directory and have it on the disk."""
    shutil.rmtree(target, ignore_errors=True)
    forget(source)
    began = time.perf_counter()
    subprocess.run(["cp", "-r", source, target], check=True)
    subprocess.run(["sync", *target.iterdir()], check=True)
    return time.perf_counter() - began


def main() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("ISTHMUS_BENCH_DIR")) as folder:
        work = Path(folder)
        for seed, name in enumerate("ab"):
            subprocess.run([sys.executable, __file__, work / name, str(seed)], check=True)
        command = [Path(sys.executable).parent / "isthmus", "merge", work / "a", work / "b", "-o", work / "merged"]
        command += ["--method", "linear", "--overwrite"]
        copies, merges = [], []
        for _ in range(RUNS):
            copies.append(copy(work / "a", work / "copy"))
            shutil.rmtree(work / "copy")
            shutil.rmtree(work / "merged", ignore_errors=True)
            forget(work / "a", work / "b")
            merges.append(measure(command))
        one = size(work / "a")
        copying, merging = 2 * one / min(copies), 3 * one / min(cost.seconds for cost in merges)
        record(
            "large",
            {
                "what": __doc__.split("\n")[0],
                "checkpoint_GB": round(one / 1e9, 2),
                "copy_MB_per_s": round(copying / 1e6),
                "merge_MB_per_s": round(merging / 1e6),
                "speed_ratio": round(merging / copying, 3),
                "seconds": {"merge": round(min(cost.seconds for cost in merges), 1), "copy": round(min(copies), 1)},
                "peak_GB": round(max(cost.peak for cost in merges) / 1e9, 3),
            },
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        make(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
