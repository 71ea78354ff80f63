"""The loss of a model that may be larger than memory: accelerate places its layers on GPUs, in memory and on disk."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.errors import BadInput
from ..checkpoint.trial_loading import quiet
from ..checkpoint.working_folders import WorkingFolder
from .loss import label_losses

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def bytes_of(size: str) -> int:
    """The bytes that ``6GB``, ``500M`` or ``1000000`` stand for. Raises BadInput for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", size.strip(), re.IGNORECASE)
    if match is None:
        raise BadInput(f"--max-memory is a size such as 6GB or 500MB; got '{size}'")
    return int(float(match[1]) * UNITS[match[2].upper()])


@torch.no_grad()
def offloaded_token_losses(
    directory: Path,
    blocks: Mapping[str, Tensor],
    memory: int,
    *,
    on_blocks: Callable[[int], None] = lambda count: None,
) -> dict[str, Tensor]:
    """−log p of every predicted token, float32, label → (blocks, context − 1), of the model in a directory.

    At most `memory` bytes of weights are in main memory; the others are on GPUs where there are any, else on disk, from
    where a layer is read when its turn comes. In float32.
    """
    with WorkingFolder(Path(tempfile.gettempdir(), "isthmus-offload-")) as folder:
        model = load_offloaded(directory, memory, folder)

        def logits(ids: Tensor) -> Tensor:
            scores: Tensor = model(input_ids=ids, use_cache=False).logits
            return scores.float()

        return label_losses(logits, blocks, int(model.config.vocab_size), on_blocks)


def load_offloaded(directory: Path, memory: int | None, offload: Path) -> Any:
    """The model in a directory, in float32, with at most `memory` bytes of weights in main memory (None: all of them).

    The others go to GPUs where there are any, else to the folder `offload`.
    """
    from transformers import AutoModelForCausalLM

    placed: dict[str, Any] = {}
    if memory is not None:
        limits: dict[int | str, int] = {"cpu": memory}
        if torch.cuda.is_available():
            limits |= {place: torch.cuda.mem_get_info(place)[0] * 4 // 5 for place in range(torch.cuda.device_count())}
        placed = {"device_map": "auto", "max_memory": limits, "offload_folder": offload}
    with quiet():
        return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **placed).eval()
