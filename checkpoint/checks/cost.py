"""The cost of a merge: bytes to download, memory, disk."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import schema_of
from ..model import Families
from ..sizes import shown_size
from ..small_files import small_files
from ..source import Source
from .finding import Finding

MBIT_PER_S = 100
# Bytes of the libraries, and how many float32 copies of the weights exist at once. Measured: an aligned merge of two
# models of 163 M parameters peaks at 4.8 GB.
LIBRARIES, COPIES = 0.6e9, 6.5
FLOAT32 = 4


@dataclass(frozen=True)
class Cost:
    """Bytes still to download, bytes of memory at the peak of a merge, `aligned` where models of this type can be,
    bytes of the merge on disk.
    """

    download: int
    memory: int
    output: int
    aligned: bool = True

    @property
    def what(self) -> str:
        """What the memory is for."""
        return "an aligned merge" if self.aligned else "a merge"

    @property
    def seconds(self) -> float:
        """The time of the download at `MBIT_PER_S`."""
        return self.download * 8 / (MBIT_PER_S * 1e6)

    def __str__(self) -> str:
        if not self.download:
            download = "nothing is left to download"
        else:
            download = f"{shown_size(self.download)} to download, {self.seconds:.0f} s at {MBIT_PER_S} Mbit/s"
        memory, disk = shown_size(self.memory), shown_size(self.output)
        return f"{download}; {self.what} takes about {memory} of memory and {disk} of disk"


def cost_of(
    sources: Sequence[Source], facts: Sequence[Mapping[str, Any]], families: Families | None, *, aligned: bool = True
) -> Cost:
    """The cost of a merge of models of one shape, `aligned` where they can be."""
    missing: dict[tuple[str, str], int] = {}  # adapters of one base need it once
    for part in (part for source in sources for part in source.parts):
        for name in (*part.weights.files, *small_files(part.files)):
            if name in part.files and not part.is_local(name):
                missing[part.name, name] = part.files[name].size or 0
    download = sum(missing.values())
    shapes = schema_of({**facts[0], "tie_word_embeddings": False}, sources[0].name, families).shapes
    weights = FLOAT32 * sum(math.prod(shape) for shape in shapes.values())
    return Cost(download, round(LIBRARIES + COPIES * weights), weights, aligned)


def cost_findings(cost: Cost) -> list[Finding]:
    """Findings if the machine has too little memory or disk for the merge."""
    from huggingface_hub import constants

    findings = []
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if cost.memory > memory:
        needed, there = shown_size(cost.memory), shown_size(memory)
        what = f"{cost.what} takes about {needed} of memory, and this machine has {there}"
        findings.append(Finding("degrades", what, "use a larger machine, or --align none --t without --data", "memory"))
    cache = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(path for path in (cache, *cache.parents) if path.exists())).free
    if cost.download > free:
        needed, there = shown_size(cost.download), shown_size(free)
        what = f"{needed} are to be downloaded, and the disk of the cache has {there} free"
        findings.append(Finding("degrades", what, "make room, or set HF_HOME to another disk", "disk"))
    return findings
