"""A model of which every process holds a share of the rows of every weight: FSDP2, `fully_shard` of torch.

Layers are put together one by one when their turn comes, and dropped again. States are sharded alike: their tensors are
DTensors, whose sums and multiples every process makes of its own rows. Whatever is computed with a sharded model, all
processes compute together, in the same order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..align.memory import release_large_when_freed
from ..checkpoint.model import arguments, empty_model
from ..checkpoint.rows import ComputedState, rows_of
from .processes import processes_of_job

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PretrainedConfig


class SharedState(dict[str, Tensor]):
    """A state of DTensors: every process holds the same share of the rows of each."""

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """This process's rows of a tensor, which are those that it is asked for."""
        shared: Any = self[name]
        rows: Tensor = shared.to_local()
        assert len(rows) == max(0, min(stop, len(shared)) - start), "processes have their own rows alone"
        return rows

    def gathered(self) -> ComputedState:
        """The same with whole tensors on the CPU. All processes look the same ones up, in the same order."""

        def whole(name: str) -> Tensor:
            shared: Any = self[name]
            gathered: Tensor = shared.full_tensor().cpu()
            return gathered

        return ComputedState(self, whole)


class ShardedModel:
    """The model of a configuration, sharded over all processes; it computes with any state, once that is loaded."""

    def __init__(self, config: PretrainedConfig, device: str = "cpu"):
        from torch.distributed.fsdp import fully_shard

        release_large_when_freed()  # layers are put together and dropped all the time
        self.device = torch.device(device)
        self._mesh = _mesh(self.device.type)
        self._process, self.processes = self._mesh.get_local_rank(), self._mesh.size()
        model: Any = empty_model(config).float()  # whatever the files have
        model.tie_weights()
        for layer in _layers(model):
            fully_shard(layer, mesh=self._mesh)
        # What is in no layer is dropped after every pass, too: the next one is another state's.
        fully_shard(model, mesh=self._mesh, reshard_after_forward=True)
        self._buffers: dict[str, Tensor] = dict(model.named_buffers(remove_duplicate=False))
        buffers = {name: buffer.clone() for name, buffer in self._buffers.items()}
        model.to_empty(device=self.device)
        self._buffers = dict(model.named_buffers(remove_duplicate=False))
        for name, buffer in buffers.items():
            self._buffers[name].copy_(buffer)
        self.module: Any = model
        self.parameters: dict[str, Any] = dict(self.module.named_parameters(remove_duplicate=False))

    def shared(self, state: Mapping[str, Tensor]) -> SharedState:
        """A copy of a state in float32, of which every process has its rows; of one on disk, these alone are read."""
        return SharedState({name: self._shared(name, self._rows(state, name).clone()) for name in state})

    def _shared(self, name: str, rows: Tensor) -> Tensor:
        """A tensor of which this process has these rows."""
        from torch.distributed.tensor import DTensor, Shard

        like = self._like(name)
        shape, stride = like.shape, like.stride()
        shared: Tensor = DTensor.from_local(rows, self._mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)
        return shared

    def _like(self, name: str) -> Any:
        """The parameter of a name, or a buffer that states have: every process has all of that."""
        return self.parameters[name] if name in self.parameters else self._buffers[name]

    def shared_in_turn(self, state: Mapping[str, Tensor]) -> SharedState:
        """As `shared`, of a state whose tensors take long to compute: each is computed by one process, in turn."""
        owners = {name: number % self.processes for number, name in enumerate(state)}
        own = {name: state[name] for name, owner in owners.items() if self.is_process(owner)}
        return SharedState({name: self.distributed(name, own.pop(name, None), owner) for name, owner in owners.items()})

    def distributed(self, name: str, whole: Tensor | None, owner: int) -> Tensor:
        """A tensor that one process has whole, of which every process gets its rows; the others give None."""
        from torch.distributed.tensor import Shard, distribute_tensor

        content = torch.empty(self._like(name).shape) if whole is None else whole
        content = content.to(self.device, torch.float32).contiguous()
        return distribute_tensor(content, self._mesh, [Shard(0)], src_data_rank=owner)

    def is_process(self, number: int) -> bool:
        """Whether this is the process of a number."""
        return self._process == number

    def sum(self, tensor: Tensor) -> None:
        """Sum a tensor that every process has, in place."""
        torch.distributed.all_reduce(tensor, group=self._mesh.get_group())

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Compute with a state from now on: shared, or any other."""
        for name in state:
            rows = self._rows(state, name)
            if name in self.parameters:
                self.parameters[name].to_local().copy_(rows)
            else:
                shared: Any = self._shared(name, rows)
                self._buffers[name].copy_(shared.full_tensor())

    def logits(self, ids: Tensor) -> Tensor:
        """The logits of token ids (batch, length), on the model's device; every process may have other ids."""
        out: Tensor = self.module(**arguments(self.module, ids.to(self.device))).logits
        return out

    def own_rows(self, whole: Tensor) -> Tensor:
        """This process's rows of a tensor that all have whole."""
        start, stop = self._span(len(whole))
        return whole[start:stop]

    def _rows(self, state: Mapping[str, Tensor], name: str) -> Tensor:
        rows = rows_of(state, name, *self._span(len(self._like(name))))
        return rows.to(self.device, torch.float32)

    def _span(self, rows: int) -> tuple[int, int]:
        """Which rows of so many are this process's: as many as everyone's, the last ones fewer, as `torch.chunk`."""
        share = -(-rows // self.processes)
        return min(self._process * share, rows), min((self._process + 1) * share, rows)


def _layers(model: nn.Module) -> list[nn.Module]:
    """The modules that are put together one by one, inner ones before those around them: not those with a weight that
    is tied to another's, which has to be there for both.
    """
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    alone = [layer for layer in layers if all(uses[id(parameter)] == 1 for parameter in layer.parameters())]
    return alone[::-1]


@dataclass(frozen=True)
class _Wanted:
    """A configuration and a device, known by what the configuration says."""

    facts: str
    device: str
    config: PretrainedConfig = field(compare=False)


def sharded_model(config: PretrainedConfig, device: str = "cpu") -> ShardedModel:
    """The sharded model of a configuration, in float32: the last one again where that has the same."""
    return _sharded_model(_Wanted(config.to_json_string(use_diff=False), device, config))


@lru_cache(maxsize=1)
def _sharded_model(wanted: _Wanted) -> ShardedModel:
    return ShardedModel(wanted.config, wanted.device)


@lru_cache
def _mesh(device: str) -> DeviceMesh:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device, (processes_of_job().num_processes,))
