"""The layers of a model: which of its tensors are in them, and a configuration for other layers than its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .config import build_config
from .errors import BadInput

COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")
INDEXES = frozenset({"mlp_only_layers", "moe_layers"})  # lists of the layers that are of another kind
NOT_BY_LAYER = ("architectures", "token_id", "label", "keys_to", "pruned", "languages")


@dataclass(frozen=True)
class Stack:
    """The layers of a model by the names of its tensors: what stands before the number of a layer, and their count.

    Of several numbered groups it is the largest: a head that is a sequence of modules has numbers, too.
    """

    prefix: str
    count: int

    @classmethod
    def of(cls, names: Sequence[str]) -> Stack:
        """The layers in the names of a model's tensors; none where no name has a number."""
        sizes = Counter(prefix for prefix, number in map(_split, names) if number is not None)
        if not sizes:
            return cls("", 0)
        prefix = sizes.most_common(1)[0][0]
        numbers = [number for one, number in map(_split, names) if one == prefix and number is not None]
        return cls(prefix, 1 + max(numbers))

    def layer(self, name: str) -> int | None:
        """The layer of a tensor; None outside the layers."""
        prefix, number = _split(name)
        return number if prefix == self.prefix else None

    def at(self, name: str, layer: int) -> str:
        """The name of a tensor of a layer in another one."""
        rest = name[len(self.prefix) :].partition(".")[2]
        return f"{self.prefix}{layer}.{rest}"


def layer_of(name: str) -> int | None:
    """The first number in the name of a tensor: its layer, or its place in what is numbered outside of them."""
    return _split(name)[1]


def _split(name: str) -> tuple[str, int | None]:
    parts = name.split(".")
    place = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    if place is None:
        return name, None
    return "".join(f"{part}." for part in parts[:place]), int(parts[place])


@dataclass(frozen=True)
class Layer:
    """One layer of a model: the content of its config.json, how many layers it has, and the layer's number."""

    facts: Mapping[str, Any]
    count: int
    number: int


def restacked(facts: Mapping[str, Any], model: str, count: int, layers: Sequence[Layer]) -> dict[str, Any]:
    """The content of config.json of a model of `count` layers, whose layers become `layers`, of it or of others.

    A list with an entry for every layer is made of the entries of its layers, whatever it is called; where a file
    leaves such a list out, it is what transformers fills in: which kind a layer is must not follow from its new place.

    Raises BadInput where no key says how many layers there are.
    """
    keys = [key for key in COUNTS if facts.get(key) == count]
    own = _with_lists(facts, model, count)
    if not keys:
        keys = [key for key in COUNTS if own.get(key) == count][:1]
    if not keys:
        raise BadInput(f"config.json of '{model}' does not say by a key that it has {count} layers: none can be moved")
    lists = [_with_lists(layer.facts, model, layer.count) for layer in layers]
    result = {**facts, **dict.fromkeys(keys, len(layers))}
    for key, value in own.items():
        if not all(key in one for one in lists):
            continue
        if key in INDEXES and isinstance(value, list):
            result[key] = [
                place for place, (one, layer) in enumerate(zip(lists, layers, strict=True)) if layer.number in one[key]
            ]
        elif _by_layer(key, value, count):
            result[key] = [one[key][layer.number] for one, layer in zip(lists, layers, strict=True)]
    if "attention_types" in facts and "attention_layers" in result:  # of GPT-Neo, which repeats them by number
        result["attention_types"] = [[result["attention_layers"], 1]]
    return result


def as_deep_as(facts: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a model with the number of layers and the lists by layer of another, to compare the rest."""
    taken = {*COUNTS, *INDEXES, "attention_types", "max_window_layers"}
    for one in (facts, first):
        counts = {one[key] for key in COUNTS if isinstance(one.get(key), int)}
        taken |= {key for key, value in one.items() if any(_by_layer(key, value, count) for count in counts)}
    rest = {key: value for key, value in facts.items() if key not in taken}
    return {**rest, **{key: value for key, value in first.items() if key in taken}}


def _with_lists(facts: Mapping[str, Any], model: str, count: int) -> dict[str, Any]:
    """The facts with the lists by layer, and the number of layers, that transformers fills in."""
    config = build_config(facts, model)
    whole = config.to_dict()
    filled = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in whole.items()
        if key not in facts and (_by_layer(key, value, count) or (key in COUNTS and value == count))
    }
    return {**filled, **facts}


def _by_layer(key: str, value: object, count: int) -> bool:
    listed = isinstance(value, (list, tuple)) and len(value) == count
    return listed and key not in INDEXES and not any(part in key for part in NOT_BY_LAYER)
