"""The loss that a report shows is that of the files: measured again, from them, by transformers, before they are
published."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.errors import IsthmusError, NotFinite
from ..checkpoint.working_folders import WorkingFolder
from ..eval.loss import Losses
from ..eval.placed import opened

BLOCKS = 2  # of every label
TOLERANCE = 1e-3  # nats per token


@dataclass(frozen=True)
class Shown:
    """The losses of a merge that its report shows, block by block, and the blocks: label → token ids.

    `memory` is how many bytes of weights may be in memory, None for all.
    """

    blocks: Mapping[str, Tensor]
    losses: Losses
    memory: int | None = None


@torch.no_grad()
def require_shown(directory: Path, shown: Shown, model: str) -> None:
    """Measure the model in a directory on the first `BLOCKS` blocks of every label.

    Raises IsthmusError where its loss is not the one that was shown, within `TOLERANCE`.
    """
    with WorkingFolder(Path(tempfile.gettempdir(), "isthmus-offload-")) as folder:
        found: Any = opened(directory, shown.memory, folder)
        for label, rows in shown.blocks.items():
            for ids, loss in zip(rows[:BLOCKS], shown.losses.per_block[label], strict=False):
                logits = found(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
                saved = torch.nn.functional.cross_entropy(logits, ids[1:].to(logits.device)).item()
                if not abs(saved - loss.item()) <= TOLERANCE:
                    raise IsthmusError(
                        f"the loss of '{model}' on '{label}' is {saved:.4f} as it would be written and "
                        f"{loss.item():.4f} as it was measured, so nothing is written: please report this"
                    )


@torch.no_grad()
def require_finite_output(directory: Path, model: str, length: int = 16) -> None:
    """Run the model in a directory once, on a few token ids. Raises NotFinite where its logits are not finite."""
    with WorkingFolder(Path(tempfile.gettempdir(), "isthmus-offload-")) as folder:
        found: Any = opened(directory, None, folder)
        rows = int(found.config.vocab_size)
        ids = torch.randint(rows, (1, length), generator=torch.Generator().manual_seed(0))
        if not bool(torch.isfinite(found(input_ids=ids, use_cache=False).logits).all()):
            raise NotFinite(
                f"'{model}' gives NaN or Inf for every text, so nothing is written: its weights are too large; take "
                "other parameters"
            )
