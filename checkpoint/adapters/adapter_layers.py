"""The modules that peft puts around those of a base model, and the weights that it merges them into.

The base has no memory for weights: every parameter is one number, repeated. A module gets its real ones when its merged
weights are asked for, and is dropped afterwards, so that no more than one module is in memory at a time.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import BadInput, one_line
from ..headers import TensorInfo
from ..model import empty_model
from ..untrusted_text import plain
from .adapter_settings import AdapterSettings

if TYPE_CHECKING:
    from transformers import PretrainedConfig

TOLERANCE = 1e-4  # of what a module gives, relative to its largest number: float32 sums differ by about 1e-6
ROWS = 8  # of random input that a module is verified on
# What peft puts between the name of a module and that of the module that it wraps.
_INSERTED = frozenset({"base_layer", "original_module", "token_adapter"})


class AdapterLayers:
    """An adapter's tensors in the modules of peft, around a base model of a configuration.

    `modules` are the adapted modules of the model by name, `replaced` the parameters elsewhere that the adapter has
    whole, such as trained biases or the rows of new tokens.

    Raises BadInput if the adapter does not fit the model; what `AdapterSettings.config` raises.
    """

    def __init__(self, config: PretrainedConfig, settings: AdapterSettings, base: str, tensors: Mapping[str, Tensor]):
        self.name, self.base = settings.name, base
        model, self._placeholders = base_with_placeholders(config)
        peft_config = settings.config()
        from peft import get_peft_model
        from peft.utils.save_and_load import get_peft_model_state_dict, set_peft_model_state_dict

        with silent():
            try:
                self._peft: Any = get_peft_model(model, peft_config, low_cpu_mem_usage=True)
            except Exception as error:
                raise self._unfit(_words(error)) from None
            self._require_shapes(tensors, get_peft_model_state_dict(self._peft, save_embedding_layers=False))
            try:
                loaded: Any = set_peft_model_state_dict(self._peft, dict(tensors), low_cpu_mem_usage=True)
            except Exception as error:
                raise self._unfit(f"peft cannot load its tensors, {_words(error)}") from None
        self._peft.eval()
        self._require_all(loaded.unexpected_keys)
        self.modules: dict[str, nn.Module] = dict(self._outermost())
        self.replaced: dict[str, Tensor] = {
            name: parameter.data
            for name, parameter in self._model.named_parameters(remove_duplicate=False)
            if id(parameter) not in self._placeholders and self.module_of(name) is None
        }

    @property
    def _model(self) -> nn.Module:
        model: nn.Module = self._peft.base_model.model
        return model

    def _unfit(self, what: str) -> BadInput:
        return BadInput(f"the adapter '{self.name}' does not fit '{self.base}': {what}")

    def _require_shapes(self, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
        for name, value in tensors.items():
            if name in expected and value.shape != expected[name].shape:
                shape, by_settings = list(value.shape), list(expected[name].shape)
                raise self._unfit(f"its '{_shown(name)}' has shape {shape}; by its settings and the base {by_settings}")

    def _require_all(self, unexpected: list[str]) -> None:
        missing = [name for name, parameter in self._peft.named_parameters() if parameter.is_meta]
        no_place = "has a tensor '{}' that the model has no place for"
        for names, what in ((unexpected, no_place), (missing, "lacks '{}'")):
            if names:
                more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
                raise self._unfit(f"it {what.format(_shown(names[0]))}{more}")

    def _outermost(self) -> Iterator[tuple[str, nn.Module]]:
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        inside: list[str] = []
        for name, module in self._model.named_modules():
            adapted = isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))
            if adapted and not any(name.startswith(f"{other}.") for other in inside):
                inside.append(name)
                yield name, module

    def module_of(self, tensor: str) -> str | None:
        """The adapted module that a tensor of the model belongs to, None if it belongs to none."""
        parts = tensor.split(".")
        names = (".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
        return next((name for name in names if name in self.modules), None)

    def adapts(self, tensor: str) -> bool:
        """Whether a tensor of the model differs from that of its base."""
        return tensor in self.replaced or self.module_of(tensor) is not None

    def merged(self, module: str, weight: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """The tensors of an adapted module, by their names in the model, in float32.

        `weight` gives the tensors of the base. Raises BadInput if peft cannot merge the module, or merges it into one
        that computes something else.
        """
        from peft.utils.other import ModulesToSaveWrapper

        wrapper = self.modules[module]
        if isinstance(wrapper, ModulesToSaveWrapper):
            whole = wrapper.modules_to_save["default"]
            return {f"{module}.{key}": value.data.float() for key, value in whole.named_parameters()}
        with torch.no_grad(), silent():
            # Placeholders are not copied, which would give them memory.
            adapted = copy.deepcopy(wrapper, {id(one): one for one in self._placeholders.values()}).float()
            self._fill(adapted, module, weight)
            try:
                inputs = _inputs(adapted)
                expected = adapted(inputs)
                merged = _merged(adapted)
            except Exception as error:
                raise BadInput(
                    f"peft cannot merge '{module}' of '{self.name}' into its base ({_words(error)}): no plain model "
                    "computes the same"
                ) from None
            difference = float((merged(inputs) - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
        if not difference <= TOLERANCE:
            raise BadInput(
                f"'{module}' of '{self.name}', merged by peft, is not what peft computes with the adapter (a relative "
                f"difference of {difference:.1e}): no plain model computes the same"
            )
        return {f"{module}.{key}": value.data for key, value in merged.named_parameters()}

    def _fill(self, adapted: nn.Module, module: str, weight: Callable[[str], Tensor]) -> None:
        """Give a copied module the weights of the base."""
        places = [adapted]
        tied = getattr(getattr(adapted, "token_adapter", None), "tied_adapter", None)
        places += [tied] if tied is not None else []  # peft keeps it out of the modules
        for place in places:
            for inner, owner in place.named_modules():
                for key, parameter in owner._parameters.items():
                    if parameter is not None and id(parameter) in self._placeholders:
                        name = _plain_name(".".join(filter(None, (module, inner, key))))
                        value = weight(name)
                        if value.shape != parameter.shape:
                            raise self._unfit(f"'{name}' is {list(value.shape)}, and {list(parameter.shape)} in it")
                        owner._parameters[key] = nn.Parameter(value, requires_grad=False)


def placeholder(shape: tuple[int, ...]) -> Tensor:
    """A tensor of a shape that takes the memory of one number."""
    return torch.zeros(()).expand(shape)


def placeholders(infos: Mapping[str, TensorInfo]) -> dict[str, Tensor]:
    """Tensors of the shapes in a header, without memory."""
    return {name: placeholder(info.shape) for name, info in infos.items()}


def base_with_placeholders(config: PretrainedConfig) -> tuple[nn.Module, dict[int, nn.Parameter]]:
    """A model of a configuration whose parameters are placeholders, tied ones the same; and these by their `id`."""
    model = empty_model(config)
    by_old: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                shape = tuple(parameter.shape)
                new = nn.Parameter(placeholder(shape), requires_grad=False)
                module._parameters[key] = by_old.setdefault(id(parameter), new)
    return model, {id(new): new for new in by_old.values()}


def _plain_name(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _INSERTED)


def _inputs(adapted: nn.Module) -> Tensor:
    """Random inputs of a module: token ids for an embedding, else vectors."""
    base: Any = getattr(adapted, "token_adapter", adapted)
    base = base.get_base_layer()
    generator = torch.Generator().manual_seed(0)
    if isinstance(base, nn.Embedding):
        ids = torch.randint(base.num_embeddings, (ROWS**2,), generator=generator)
        trained = getattr(getattr(adapted, "token_adapter", None), "token_indices", None)
        return ids if trained is None else torch.cat([ids, torch.tensor([i for one in trained.values() for i in one])])
    inputs_first = type(base).__name__ == "Conv1D"  # of transformers
    width = base.weight.shape[0 if inputs_first or base.weight.ndim == 1 else 1]
    return torch.randn(ROWS, width, generator=generator)


def _merged(adapted: Any) -> Any:
    if hasattr(adapted, "unload_and_optionally_merge_module"):
        return adapted.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
    adapted.merge(safe_merge=True)
    return adapted.get_base_layer()


@contextmanager
def silent() -> Iterator[None]:
    """Without the warnings of peft, which are about what isthmus verifies, or are raised as errors."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _shown(name: str) -> str:
    """The name of an adapter's tensor in messages."""
    return plain(name.removeprefix("base_model.model.").replace(".default", ""), 120)


def _words(error: Exception) -> str:
    return plain(one_line(error, 240).rstrip("."), 240)
