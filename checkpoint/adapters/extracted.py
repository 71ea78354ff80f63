"""A fine-tune as an adapter of its base: the task vector of every linear map by its largest singular values.

θ − θ_base = U Σ Vᵀ of each matrix, cut after r singular values, is B A with B = U √Σ and A = √Σ Vᵀ: the best
approximation of that rank in the Frobenius norm (Eckart and Young 1936), and a LoRA (Hu et al. 2021, arXiv 2106.09685)
of scale 1. What is no matrix, embeddings and output matrices go in whole where they differ.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..config import build_config
from ..errors import BadInput
from ..model import empty_model
from ..rows import ComputedState
from ..saving import write_json
from ..small_files import ADAPTER
from ..task import CAUSAL, task_of
from ..weight_files import ADAPTERS
from .adapter_layers import base_with_placeholders, silent
from .adapter_names import plain_name

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Factors:
    """A difference of two matrices (outputs, inputs) as `up` (outputs, r) times `down` (r, inputs).

    `square` is its squared Frobenius norm, and `energy` the share of that which they keep.
    """

    up: Tensor
    down: Tensor
    energy: float
    square: float

    @property
    def rank(self) -> int:
        """The number of singular values that they keep."""
        return self.down.shape[0]


def low_rank(difference: Tensor, *, rank: int | None = None, energy: float = 1.0, noise: float = 0.0) -> Factors:
    """The best factors of at most `rank`, or of the lowest rank that keeps a share `energy` of the squared norm.

    Singular values below max(m, n) ε σ₁, and below `noise`, are rounding, and never in them; at least one is.
    """
    left, values, right = torch.linalg.svd(difference.float(), full_matrices=False)
    shares = values.double().square().cumsum(0)
    total = float(shares[-1])
    null = max(noise, max(difference.shape) * torch.finfo(torch.float32).eps * float(values[0]))
    most = max(1, int((values > null).sum()))
    enough = int((shares < energy * total).sum()) + 1 if total > 0 else 1
    count = min(most, enough if rank is None else rank)
    root = values[:count].sqrt()
    share = float(shares[count - 1]) / total if total > 0 else 1.0
    up, down = (left[:, :count] * root).contiguous(), (root[:, None] * right[:count]).contiguous()
    return Factors(up, down, share, total)


@dataclass(frozen=True)
class ExtractedAdapter:
    """An adapter that makes a model, or nearly that, of its base.

    `factors` are those of the linear maps that differ, by module; `transposed` are the modules that store (inputs,
    outputs); `whole` are the other tensors that differ, by name, with all tensors of their modules. `facts` is the
    content of config.json of the model.
    """

    facts: Mapping[str, Any]
    factors: Mapping[str, Factors]
    whole: Mapping[str, Tensor]
    transposed: frozenset[str]

    @classmethod
    def of(
        cls,
        state: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        base: Mapping[str, Tensor],
        *,
        rank: int | None = None,
        energy: float = 1.0,
        is_of_base: Callable[[str], bool] = lambda name: False,
        on_tensor: Callable[[], None] = lambda: None,
    ) -> ExtractedAdapter:
        """The adapter of a state with these `facts` on top of a `base`; `rank` and `energy` as for `low_rank`.

        Both have the same tensors, though the state may have more rows in its embedding, and an output matrix of its
        own. `is_of_base` says which tensors are the base's in all but rounding. `on_tensor` is called after every
        tensor. Raises BadInput where a tensor differs that no LoRA can hold, or none does.
        """
        model = empty_model(build_config(facts, "the model"))
        linear = dict(_linear_maps(model))
        transposed = frozenset(name for name, module in linear.items() if not isinstance(module, nn.Linear))
        differing = [name for name in state if not is_of_base(name) and not _is_same(state, base, name, model)]
        if not differing:
            raise BadInput("the model is its base: there is nothing that an adapter could hold")
        matrices = {name for name in differing if _module(name) in linear and name.endswith(".weight")}
        others = [name for name in differing if name not in matrices]
        for name in others:
            if _module(name) not in linear and not _is_leaf(model, _module(name)):
                raise BadInput(f"'{name}' differs from the base, and is no module's own weight: no LoRA can hold it")
        factors: dict[str, Factors] = {}
        for name in state:
            if name in matrices:
                difference = _turned(state[name] - base[name], _module(name) in transposed)
                factors[_module(name)] = low_rank(difference, rank=rank, energy=energy, noise=_noise(base[name]))
            on_tensor()
        modules = set(map(_module, others))
        biased = [module for module in linear if module in modules]
        for module in biased or ([] if factors else list(linear)[:1]):  # peft adapts one at least
            if module not in factors:
                nothing = torch.zeros_like(_turned(base[f"{module}.weight"], module in transposed))
                factors[module] = low_rank(nothing, rank=1)
        if biased:  # peft then saves those of all that it adapts
            modules |= set(factors)
        saved = [name for name in state if _module(name) in modules]
        whole = {name: state[name].clone() for name in saved if _module(name) not in linear or name.endswith(".bias")}
        return cls(facts, factors, _with_both_names(whole, state, model), transposed)

    def state(self, base: Mapping[str, Tensor], names: Iterable[str]) -> ComputedState:
        """The model that a base and this adapter make, as a state of tensors with these `names`."""

        def tensor(name: str) -> Tensor:
            module, _, kind = name.rpartition(".")
            if name in self.whole:
                return self.whole[name]
            if kind != "weight" or module not in self.factors:
                return base[name]
            difference = self.factors[module].up @ self.factors[module].down
            return base[name] + _turned(difference, module in self.transposed)

        return ComputedState(names, tensor)

    @property
    def energy(self) -> float:
        """The share of the squared norm of all that linear maps differ by which the factors keep."""
        total = sum(factors.square for factors in self.factors.values())
        of_factors = sum(factors.square * factors.energy for factors in self.factors.values())
        return of_factors / total if total > 0 else 1.0

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of every linear map that is adapted."""
        return {module: factors.rank for module, factors in self.factors.items()}

    def record(self) -> dict[str, Any]:
        """What a report says of it: ranks, energies and sizes."""
        energies = {module: factors.energy for module, factors in self.factors.items()}
        lowest = min(energies, key=lambda module: energies[module], default=None)
        return {
            "ranks": self.ranks,
            "energy": self.energy,
            "lowest_energy": None if lowest is None else {"module": lowest, "energy": energies[lowest]},
            "whole": sorted(self.whole),
            "numbers": self.numbers,
        }

    @property
    def numbers(self) -> int:
        """How many numbers the adapter has."""
        return sum(value.numel() for value in self.whole.values()) + sum(
            factors.up.numel() + factors.down.numel() for factors in self.factors.values()
        )

    @cached_property
    def settings(self) -> LoraConfig:
        """The configuration of peft. Raises BadInput without the package peft."""
        try:
            from peft import LoraConfig
        except ImportError:
            raise BadInput("an adapter is written with peft: pip install 'isthmus[peft]'") from None
        ranks = self.ranks
        usual = Counter(ranks.values()).most_common(1)[0][0] if ranks else 1
        others = {module: rank for module, rank in ranks.items() if rank != usual}
        saved = list(dict.fromkeys(name.rpartition(".")[0] for name in self.whole if not self._is_bias(name)))
        return LoraConfig(
            task_type="CAUSAL_LM" if task_of(self._config) == CAUSAL else None,
            r=usual,
            lora_alpha=usual,
            rank_pattern=dict(others),
            alpha_pattern=dict(others),
            target_modules=_targets(ranks, _linear_maps(empty_model(self._config))),
            modules_to_save=saved or None,
            bias="lora_only" if any(map(self._is_bias, self.whole)) else "none",
            fan_in_fan_out=bool(self.transposed),
        )

    @property
    def _config(self) -> PretrainedConfig:
        return build_config(self.facts, "the model")

    def _is_bias(self, name: str) -> bool:
        module, _, kind = name.rpartition(".")
        return kind == "bias" and module in self.factors

    def save(self, directory: Path, base: str | None, revision: str | None = None) -> None:
        """Write adapter_config.json and adapter_model.safetensors, as peft reads them; `base` is its base on the Hub.

        Raises BadInput without the package peft.
        """
        from safetensors.torch import save_file

        settings = self.settings
        from peft import get_peft_model
        from peft.utils.save_and_load import get_peft_model_state_dict

        with silent():
            model: Any = get_peft_model(base_with_placeholders(self._config)[0], settings, low_cpu_mem_usage=True)
            expected = get_peft_model_state_dict(model, save_embedding_layers=False)
        tensors = {}
        for name in expected:
            place = name.removeprefix("base_model.model.")
            module = place.partition(".lora_")[0]
            if ".lora_A." in place:
                tensors[name] = self.factors[module].down
            elif ".lora_B." in place:
                tensors[name] = self.factors[module].up
            else:
                tensors[name] = self.whole.get(plain_name(name), torch.zeros(0))
        for name in [name for name, value in tensors.items() if not value.numel()]:
            raise BadInput(f"'{plain_name(name)}' cannot be put into an adapter: please report this")
        settings.base_model_name_or_path, settings.revision, settings.inference_mode = base, revision, True
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, directory / ADAPTERS[0], {"format": "pt"})
        content = {key: sorted(v) if isinstance(v, set) else v for key, v in settings.to_dict().items()}
        write_json(directory / ADAPTER, {key: getattr(v, "value", v) for key, v in content.items()})


def _linear_maps(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """The modules that LoRA adapts: all linear maps but the output matrix."""
    from transformers.pytorch_utils import Conv1D

    transformer: Any = model
    head = transformer.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head:
            yield name, module


def _targets(ranks: Mapping[str, int], linear: Iterable[tuple[str, nn.Module]]) -> list[str]:
    """The modules to adapt, by the ends of their names where those name no others."""
    ends = {module.rpartition(".")[2] for module in ranks}
    others = {name.rpartition(".")[2] for name, _ in linear if name not in ranks}
    short = ends - others
    return sorted(short) + sorted(name for name in ranks if name.rpartition(".")[2] not in short)


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _turned(matrix: Tensor, transposed: bool) -> Tensor:
    """(outputs, inputs) of what a module stores, or the other way round."""
    return matrix.T if transposed else matrix


def _is_same(state: Mapping[str, Tensor], base: Mapping[str, Tensor], name: str, model: nn.Module) -> bool:
    before, value = _before(base, name, model), state[name]
    return value.shape == before.shape and torch.equal(value, before)


def _before(base: Mapping[str, Tensor], name: str, model: nn.Module) -> Tensor:
    """A tensor of the base; of an output matrix that is tied there, the embedding."""
    tied: Mapping[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    return base[name] if name in base else base[tied[name]]


def _is_leaf(model: nn.Module, name: str) -> bool:
    """Whether a module has no others inside, so that it can be saved whole."""
    try:
        module = model.get_submodule(name)
    except AttributeError:
        return False
    return not any(True for _ in module.children())


def _noise(matrix: Tensor) -> float:
    """What rounding adds to the singular values of a difference from a matrix (m, n): 4 ε rms (√m + √n)."""
    rms = float(matrix.square().mean().sqrt())
    return 4 * torch.finfo(torch.float32).eps * rms * sum(math.sqrt(size) for size in matrix.shape)


def _with_both_names(whole: dict[str, Tensor], state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """With an embedding its output matrix, and with that the embedding: peft ties neither to the other."""
    transformer: Any = model
    ends = (transformer.get_input_embeddings(), transformer.get_output_embeddings())
    names = [f"{name}.weight" for name, module in model.named_modules() if any(module is end for end in ends)]
    if len(names) < 2 or not any(name in whole for name in names):
        return whole
    stored = [name for name in names if name in state]
    return {**whole, **{name: state[name if name in state else stored[0]] for name in names}}
