"""The weights of a base model with an adapter merged into them, each computed when it is looked up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..config import build_config, read_facts, schema_of, untied_facts
from ..errors import BadInput, CorruptCheckpoint
from ..headers import TensorInfo
from ..lazy_state import DTYPES, LazyState, StoredTensor
from ..model import Families, Schema
from ..naming import Conversion
from ..rows import ComputedState, first_of, in_blocks
from ..source import Source
from ..task import TEXTS, TOKENS, class_name, classifier_task
from ..tensor_inventory import TensorInventory, inventory_as
from ..untrusted_text import plain
from .adapted_source import AdaptedSource, AdapterFiles
from .adapter_layers import AdapterLayers, placeholders
from .adapter_names import plain_name

# What peft calls the tasks of classifiers, and the maps to labels by the end of their names.
TASKS = {"SEQ_CLS": TEXTS, "TOKEN_CLS": TOKENS}
HEADS = ("score.weight", "classifier.weight", "classifier.out_proj.weight")


def adapted_facts(facts: Mapping[str, Any], source: AdaptedSource, families: Families | None = None) -> dict[str, Any]:
    """The content of config.json of an adapted model: that of its base, with the rows of the adapter's embedding.

    Raises BadInput for embeddings of different rows, and as `schema_of` does.
    """
    infos = source.adapter.tensor_infos()
    if infos is None:
        return dict(facts)
    facts = _of_task(facts, source.adapter, infos)
    schema = schema_of(facts, source.base.name, families)
    own = facts.get("vocab_size")
    shapes = schema.untied().shapes
    rows = {
        info.shape[0]
        for name, info in infos.items()
        if len(info.shape) == 2 and shapes.get(plain_name(name)) == (own, info.shape[1])
    }
    if len(rows) > 1:
        counts = " and ".join(map(str, sorted(rows)))
        raise BadInput(f"the adapter '{source.adapter.name}' has embeddings of {counts} rows: save it again with peft")
    return {**facts, **({"vocab_size": rows.pop()} if rows else {})}


def _of_task(facts: Mapping[str, Any], adapter: AdapterFiles, infos: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """The content of config.json of what an adapter makes of a base: a classifier, where it was trained as one.

    Its labels have no names, and are as many as its head has rows: peft writes nothing of them.
    """
    task = TASKS.get(str(adapter.settings.content.get("task_type")))
    if task is None or classifier_task(facts["model_type"], facts.get("architectures")) is not None:
        return dict(facts)
    name = class_name(facts["model_type"], task)
    outputs = [info for one, info in infos.items() if plain_name(one).endswith(HEADS)]
    if name is None or len({info.shape[0] for info in outputs}) != 1:
        raise BadInput(
            f"the adapter '{adapter.name}' makes a classifier of its base, and has no head of one: save it again with "
            "peft, with its head (modules_to_save)"
        )
    labels = {str(row): f"LABEL_{row}" for row in range(outputs[0].shape[0])}
    return {
        **facts,
        "architectures": [name],
        "id2label": labels,
        "label2id": {label: int(row) for row, label in labels.items()},
        "tie_word_embeddings": False,
    }


def facts_with_adapter(source: Source, families: Families | None = None) -> dict[str, Any]:
    """The content of config.json of a model, adapted or not. Raises as `read_facts` and `adapted_facts` do."""
    facts = read_facts(source.parts[0])
    return adapted_facts(facts, source, families) if isinstance(source, AdaptedSource) else facts


def adapter_layers(
    facts: Mapping[str, Any], source: AdaptedSource, tensors: Mapping[str, Tensor] | None = None
) -> AdapterLayers:
    """The adapter around an empty model with these facts; without `tensors`, by the header of its file alone.

    Raises BadInput if it does not fit.
    """
    if tensors is None:
        infos = source.adapter.tensor_infos()
        assert infos is not None, "a pickled adapter on the Hub has no header"
        tensors = placeholders(infos)
    config = build_config(facts, source.base.name)
    return AdapterLayers(config, source.adapter.settings, source.base.name, tensors)


def beside(source: AdaptedSource, facts: Mapping[str, Any], before: Schema, after: Schema) -> TensorInventory | None:
    """What the base's files hold of what the adapter makes of it, where that is something else: its pooler, say."""
    return None if before.task == after.task else inventory_as(source.base, facts)


def require_rows(
    layers: AdapterLayers, before: Schema, after: Schema, source: AdaptedSource, held: TensorInventory | None
) -> None:
    """Raise BadInput where the adapter grows a vocabulary, and has not all matrices that grow with it, or makes another
    model of the base, and has not all that this model has and neither the base nor its files have (`held`).
    """
    own, in_files = before.untied().shapes, set() if held is None else held.naming.by_name().keys()
    for name, shape in after.untied().shapes.items():
        if name not in own:
            if not layers.adapts(name) and name not in in_files:
                raise BadInput(
                    f"the adapter '{source.adapter.name}' makes a classifier of '{source.base.name}' and has no "
                    f"'{name}': save it with that module (modules_to_save)"
                )
        elif shape != own[name] and not layers.adapts(name):
            raise BadInput(
                f"the adapter '{source.adapter.name}' adds rows to the vocabulary of '{source.base.name}', and none to "
                f"'{name}': save it with save_embedding_layers=True"
            )


@dataclass(frozen=True)
class AdaptedWeights:
    """What an adapter makes of its base: the content of config.json, the schema, and the state."""

    facts: dict[str, Any]
    schema: Schema
    state: Mapping[str, Tensor]

    @classmethod
    def of(
        cls,
        facts: Mapping[str, Any],
        schema: Schema,
        state: Mapping[str, Tensor],
        source: AdaptedSource,
        families: Families | None = None,
    ) -> AdaptedWeights:
        """The weights of a base with these `facts`, `schema` and `state`, adapted.

        A tied model is untied if the adapter leaves its embedding and its output matrix different, as peft does. Raises
        BadInput or CorruptCheckpoint for an adapter that does not fit, or holds NaN or Inf.
        """
        grown = adapted_facts(facts, source, families)
        layers = adapter_layers(grown, source, _tensors(source.adapter))
        whole = schema_of(grown, source.name, families)
        held = beside(source, grown, schema, whole)
        require_rows(layers, schema, whole, source, held)
        if held is not None:
            state = first_of(state, held.state(source.base))
        tensor = _looked_up(layers, schema, state, source)
        adapted = whole.task == schema.task and any(
            layers.adapts(name) for pair in schema.tied.items() for name in pair
        )
        if adapted and not all(torch.equal(tensor(name), tensor(first)) for name, first in schema.tied.items()):
            grown, whole = untied_facts(grown), whole.untied()

        def blocks(name: str) -> Iterator[Tensor]:
            own = layers.adapts(name) or name not in state
            return in_blocks({name: tensor(name)} if own else state, name)

        return cls(grown, whole, ComputedState(whole.shapes, tensor, blocks))


def _looked_up(
    layers: AdapterLayers, schema: Schema, state: Mapping[str, Tensor], source: AdaptedSource
) -> Callable[[str], Tensor]:
    def of_base(name: str) -> Tensor:
        return state[name if name in state else schema.tied[name]]

    @lru_cache(maxsize=1)  # the tensors of one module are looked up one after another
    def merged(module: str) -> dict[str, Tensor]:
        return layers.merged(module, of_base)

    def tensor(name: str) -> Tensor:
        if name in layers.replaced:
            return layers.replaced[name].float()
        module = layers.module_of(name)
        value = of_base(name) if module is None else merged(module)[name]
        source.require_unchanged(())
        return value

    return tensor


def _tensors(adapter: AdapterFiles) -> dict[str, Tensor]:
    """All tensors of an adapter, float32. Raises CorruptCheckpoint for other dtypes, and for NaN and Inf."""
    file = adapter.weights.files[0]
    path, version = adapter.path(file), adapter.version(file)
    infos: Mapping[str, TensorInfo] | None = adapter.tensor_infos()
    assert infos is not None, "the file is on this disk"
    for name, info in infos.items():
        if info.dtype not in DTYPES:
            raise CorruptCheckpoint(
                f"'{plain(name, 100)}' of '{adapter.name}' has dtype {info.dtype}; expected F32, F16 or BF16"
            )
    stored = {name: StoredTensor(path, version, name, info) for name, info in infos.items()}
    return dict(LazyState({name: Conversion((name,), (name,)) for name in stored}, stored, adapter.name))
