"""Running states of one configuration: with the weights in this process, or shared by several processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call

from ..checkpoint.model import arguments, empty_model, with_tied
from .processes import sharding
from .sharded import sharded_model

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Logits = Callable[[Tensor], Tensor]


def logits_of(config: PretrainedConfig, device: str | torch.device = "cpu") -> Callable[[Mapping[str, Tensor]], Logits]:
    """What gives, for a state of a configuration, what gives its logits of token ids (batch, length).

    The forward pass runs on `device`, in float32. Of a state that is shared, only until the next one is run.
    """
    if sharding():

        def shared(state: Mapping[str, Tensor]) -> Logits:
            model = sharded_model(config, str(device))
            model.load(state)
            return model.logits

        return shared
    empty = empty_model(config)

    def alone(state: Mapping[str, Tensor]) -> Logits:
        full = with_tied({name: state[name].to(device, torch.float32) for name in state}, empty)

        def logits(ids: Tensor) -> Tensor:
            out: Tensor = functional_call(empty, dict(full), (), arguments(empty, ids.to(device))).logits
            return out

        return logits

    return alone


def runnable(state: Mapping[str, Tensor], config: PretrainedConfig, device: str | torch.device = "cpu") -> Any:
    """The model with a state, as transformers runs it; one that is shared has it until the next one is run."""
    if sharding():
        shared = sharded_model(config, str(device))
        shared.load(state)
        return shared.module
    model = empty_model(config)
    on_device = {name: state[name].to(device, torch.float32) for name in state}
    model.load_state_dict(with_tied(on_device, model), assign=True)
    return model
