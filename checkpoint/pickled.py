"""What a pickle of weights may hold: tensors by their names, each with all of its numbers, in rows of memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from isthmus.checkpoint.errors import CorruptCheckpoint


def plain_tensors(content: object, where: str) -> dict[str, Tensor]:
    """The tensors in what was unpickled, by name; values that are no tensors are left out, as transformers does.

    Tensors are plain views of their memory: of no subclass, without gradients. `where` names the file in messages.

    Raises CorruptCheckpoint for anything but a mapping with text as keys, and for tensors without numbers of their own
    (on the meta device), or whose numbers do not lie in rows (sparse, nested, quantized).
    """
    if not isinstance(content, Mapping):
        raise CorruptCheckpoint(
            f"{where} holds {type(content).__name__} in place of tensors by name: save the model's state_dict"
        )
    tensors = {}
    for name, value in content.items():
        if not isinstance(name, str):
            raise CorruptCheckpoint(f"{where} has {str(name)[:60]!r} as the name of a tensor: save the state_dict")
        if isinstance(value, Tensor):
            tensors[name] = _plain(name, value, where)
    return tensors


def _plain(name: str, tensor: Tensor, where: str) -> Tensor:
    kind = None
    if tensor.is_meta:
        kind = "has no numbers (it is on the meta device)"
    elif tensor.is_nested:
        kind = "is a nested tensor"
    elif tensor.layout != torch.strided:
        kind = f"is sparse ({str(tensor.layout).removeprefix('torch.')})"
    elif tensor.is_quantized:
        kind = "is quantized"
    if kind is not None:
        raise CorruptCheckpoint(f"'{name}' in {where} {kind}: save the model's full-precision weights")
    return tensor.detach().as_subclass(Tensor).resolve_conj().resolve_neg()
