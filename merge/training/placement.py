"""Where the weights of a path are while it is trained: all in every process, or a share of them in each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic

import torch
from torch import Tensor, nn
from typing_extensions import override

from ...align.families import family
from ...align.memory import release_freed
from ...align.symmetry import State
from ..plans import PathTraining
from ..saved_path import read_bends, write_bends
from .optimizers import Schedule, make_optimizers
from .path_loss import P, PathModule
from .sharded_path import ShardedPath, sharded_optimizers

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.optim import Optimizer
    from transformers import PretrainedConfig

    from ...align.learned import LearnedAlignment

BESIDE_MUON = 0.4  # AdamW's learning rate for what is no hidden matrix, as a share of Muon's
BEST = "best.safetensors"


class Placement(ABC, Generic[P]):
    """A path that is trained, its optimizers and their schedule."""

    kept: ClassVar[str]  # how a run that is saved holds its weights; another placement cannot go on with it
    optimizers: list[Optimizer]
    schedule: Schedule

    @abstractmethod
    def __init__(
        self,
        accelerator: Accelerator,
        path: P,
        config: PretrainedConfig,
        training: PathTraining,
        moving: LearnedAlignment | None = None,
    ):
        """Place a path, whose ends may be `moving`."""

    @abstractmethod
    def lower(self, rows: Mapping[str, Tensor], place: Any, targets: float) -> float:
        """Add the gradient of a micro-batch, its rows by name, at a place; returns its loss, the mean over so many
        targets.
        """

    @abstractmethod
    def clip(self) -> Tensor:
        """Scale the gradient of all that is trained to a norm of 1, if it is more; returns what that was."""

    @abstractmethod
    def now(self, path: P) -> P:
        """A copy of the path as it now is."""

    @abstractmethod
    def save(self, folder: Path, best: Sequence[State]) -> None:
        """Keep all that it takes to go on, and the best states so far; every process calls this."""

    @abstractmethod
    def load(self, folder: Path) -> tuple[State, ...]:
        """Go on from what `save` wrote; returns the best states."""


class Replicated(Placement[P]):
    """Every process has all weights, and accelerate averages their gradients (DDP)."""

    kept = "whole"

    def __init__(
        self,
        accelerator: Accelerator,
        path: P,
        config: PretrainedConfig,
        training: PathTraining,
        moving: LearnedAlignment | None = None,
    ):
        self._accelerator = accelerator
        self._module = PathModule(path, config, moving)
        made = path_optimizers(self._module, training, config)
        self.schedule = Schedule(made, training.steps, floor=0.05)
        self._prepared, *self.optimizers = accelerator.prepare(self._module, *made)

    @override
    def lower(self, rows: Mapping[str, Tensor], place: Any, targets: float) -> float:
        device = self._accelerator.device
        with self._accelerator.accumulate(self._prepared):
            loss: Tensor = self._prepared(
                rows["ids"].to(device), rows["given"].to(device), place, rows["teacher"].to(device), targets
            )
            self._accelerator.backward(loss)
        return loss.item()

    @override
    def clip(self) -> Tensor:
        return torch.as_tensor(self._accelerator.clip_grad_norm_(self._module.parameters(), 1.0))

    @override
    def now(self, path: P) -> P:
        return self._module.now(path)

    @override
    def save(self, folder: Path, best: Sequence[State]) -> None:
        self._accelerator.save_state(str(folder))
        if self._accelerator.is_main_process:
            write_bends(folder / BEST, best)

    @override
    def load(self, folder: Path) -> tuple[State, ...]:
        best = read_bends(folder / BEST)
        self._accelerator.load_state(str(folder))
        return best


class Sharded(Placement[P]):
    """Every process has its rows of all weights, of their gradients and of what optimizers keep of them (FSDP2)."""

    kept = "shared"

    def __init__(
        self,
        accelerator: Accelerator,
        path: P,
        config: PretrainedConfig,
        training: PathTraining,
        moving: LearnedAlignment | None = None,
    ):
        self._accelerator, self._micro = accelerator, training.accumulate
        self.module = ShardedPath(path, config, str(accelerator.device), moving)
        adamw_lr = BESIDE_MUON * training.peak
        self.optimizers = sharded_optimizers(self.module, training, family(config), adamw_lr)
        self.schedule = Schedule(self.optimizers, training.steps, floor=0.05)

    @override
    def lower(self, rows: Mapping[str, Tensor], place: Any, targets: float) -> float:
        from accelerate.utils import AutocastKwargs

        device = self._accelerator.device
        # Casts are not kept: the same parameters hold another state at the next pass.
        with self._accelerator.autocast(AutocastKwargs(cache_enabled=False)):
            loss: Tensor = self.module(
                rows["ids"].to(device), rows["given"].to(device), place, rows["teacher"].to(device), targets
            )
        (loss / self._micro).backward()
        self.module.collect(place)
        release_freed()  # what layers were put together in: glibc would keep more than a process's share of the weights
        return loss.item()

    @override
    def clip(self) -> Tensor:
        self.module.sum_gradients()
        norms = []
        for part in self._parts():
            norm: Any = nn.utils.get_total_norm([leaf.grad for leaf in part if leaf.grad is not None])
            norms.append(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        total = torch.stack(norms).square().sum().sqrt()
        for part in self._parts():
            nn.utils.clip_grads_with_norm_(part, 1.0, total)
        return total

    def _parts(self) -> Iterator[list[Tensor]]:
        """What is trained: what processes share, and what each of them has."""
        yield from (part for part in (list(self.module.trained), self._motions()) if part)

    def _motions(self) -> list[Tensor]:
        return list(self.module.moving.parameters()) if self.module.moving else []

    @override
    def now(self, path: P) -> P:
        return self.module.now(path)

    @override
    def save(self, folder: Path, best: Sequence[State]) -> None:
        from torch.distributed.checkpoint.state_dict_saver import save

        kept = {str(number): self._states_of(optimizer) for number, optimizer in enumerate(self.optimizers)}
        save(self._content(best) | {"optimizers": kept}, checkpoint_id=folder)

    def _states_of(self, optimizer: Optimizer) -> dict[str, dict[str, Any]]:
        """What an optimizer keeps of every leaf that it has moved, by its number."""
        return {str(i): dict(optimizer.state[leaf]) for i, leaf in enumerate(self._leaves()) if leaf in optimizer.state}

    @override
    def load(self, folder: Path) -> tuple[State, ...]:
        """With whose rows are whose, so that another number of processes can go on.

        A bend that no step has reached yet has no state of an optimizer, and gets none.
        """
        from torch.distributed.checkpoint.filesystem import FileSystemReader
        from torch.distributed.checkpoint.state_dict_loader import load

        ends = self.module.ends_now() if self.module.moving else ()
        best, leaves = (*self.module.copies(), *ends), self._leaves()
        metadata = FileSystemReader(folder).read_metadata()
        kept: dict[str, dict[str, dict[str, Any]]] = {str(number): {} for number in range(len(self.optimizers))}
        for key, (kind, *where) in (metadata.planner_data or {}).items():
            if kind == "optimizers":
                optimizer, leaf, name = where
                like, size = leaves[int(leaf)].detach(), getattr(metadata.state_dict_metadata[key], "size", None)
                shared = size == like.shape
                value = torch.zeros_like(like) if shared else None if size is None else torch.zeros(size)
                kept[optimizer].setdefault(leaf, {})[name] = value
        content = self._content(best) | {"optimizers": kept}
        load(content, checkpoint_id=folder)
        for number, optimizer in enumerate(self.optimizers):
            for leaf, state in content["optimizers"][str(number)].items():
                optimizer.state[leaves[int(leaf)]] = state
        return best

    def _leaves(self) -> list[Tensor]:
        return [*self.module.trained, *self._motions()]

    def _content(self, best: Sequence[State]) -> dict[str, Any]:
        """What is trained as it is, and the states as they were best; what is loaded is written into these tensors."""
        bends = {str(number): leaf.detach() for number, leaf in enumerate(self._leaves())}
        return {"bends": bends, "best": {str(number): dict(state) for number, state in enumerate(best)}}


def path_optimizers(module: PathModule, training: PathTraining, config: PretrainedConfig) -> list[Optimizer]:
    """The optimizers of all that is trained: of the alignment, where that moves, and of the bends."""
    leaves, table = module.leaves(), family(config)
    made = module.moving.optimizers() if module.moving else []
    if not leaves:
        return made
    return made + make_optimizers(
        training.optimizer,
        leaves,
        table.matrices,
        stacks=table.stacks,
        transposed=table.transposed,
        lr=training.peak,
        adamw_lr=BESIDE_MUON * training.peak,
        weight_decay=training.weight_decay,
    )
