"""What the weight files of a model hold, by headers: which of its tensors, under which names, and what does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from .config import build_config, schema_of
from .file_version import opened
from .headers import TensorInfo
from .lazy_state import DTYPES, LazyState, StoredTensor
from .model import Families, Schema, model_of_names
from .naming import Conversion, Naming, library_naming, plain_naming
from .pickles import pickle_header
from .rows import in_blocks
from .source import Source
from .untrusted_text import plain

# Parts of names that wrappers of a model add, with how a model is saved without them.
_MERGE = "merge the adapter into the model (merge_and_unload), and save that"
_INSIDE = "save the model inside (model.module.save_pretrained)"
WRAPPERS = {
    "_orig_mod": ("torch.compile", "save the model that was compiled (model._orig_mod.save_pretrained)"),
    "module": ("parallel training", _INSIDE),
    "_fsdp_wrapped_module": ("FSDP", "save the full state through accelerate or the Trainer of transformers"),
    "_checkpoint_wrapped_module": ("activation checkpointing", "save the model without its wrappers"),
    "_forward_module": ("a wrapper for training", _INSIDE),
    "base_model": ("PEFT", _MERGE),
    "base_layer": ("PEFT", _MERGE),
}


@dataclass(frozen=True)
class Problem:
    """What does not fit in the files of a model, and what to do."""

    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.what}: {self.advice}"


@dataclass(frozen=True)
class TensorInventory:
    """The tensors in the files of a model (`infos`, with the file of each), its `schema`, and how one names the other.

    `problems` say what does not fit, each with what to do. A tied tensor that is stored by itself is in `naming`.
    """

    schema: Schema
    naming: Naming
    infos: Mapping[str, tuple[str, TensorInfo]] = field(repr=False)
    problems: tuple[Problem, ...]

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes of the model's tensors, by safetensors' names."""
        return tuple(sorted({self.infos[name][1].dtype for group in self.naming.groups for name in group.stored}))

    def state(self, source: Source) -> LazyState:
        """The model's tensors that are stored, read when they are looked up."""
        stored = {
            name: StoredTensor(source.path(file), source.version(file), name, self.infos[name][1])
            for group in self.naming.groups
            for name in group.stored
            for file in (self.infos[name][0],)
        }
        groups = self.naming.by_name()
        in_order = {name: groups[name] for name in (*self.schema.shapes, *self.schema.tied) if name in groups}
        return LazyState(in_order, stored, source.name)

    def settled(self, source: Source) -> TensorInventory:
        """The model that transformers makes of tied tensors that are stored twice: one where they are equal, else two.

        Reads both where both are stored; a state of the result has each tensor once.
        """
        present = self.naming.by_name()
        both = [(target, first) for target, first in self.schema.tied.items() if target in present]
        if both and any(first in present for _, first in both):
            state = self.state(source)
            if not all(_equal(state, target, first) for target, first in both if first in present):
                # The others are copies again: where transformers ties nothing, it expects each by its name.
                return replace(self, schema=self.schema.untied())
        drop = {group.stored for group in self.naming.groups if group.names[0] in self.schema.tied}
        groups = tuple(group for group in self.naming.groups if group.stored not in drop)
        return replace(self, naming=replace(self.naming, groups=groups))


def _equal(state: LazyState, target: str, source: str) -> bool:
    blocks = zip(in_blocks(state, target), in_blocks(state, source), strict=True)
    return all(torch.equal(mine, other) for mine, other in blocks)


def stored_tensors(source: Source) -> dict[str, tuple[str, TensorInfo]] | None:
    """Stored name → (file, header entry) of all tensors; None for pickled weights on the Hub, which have no header."""
    found: dict[str, tuple[str, TensorInfo]] = {}
    for filename in source.weight_files():
        if filename.endswith(".safetensors"):
            infos = source.header(filename)
        elif source.is_local(filename):
            with opened(source.path(filename), source.version(filename), source.name) as file:
                infos = pickle_header(file, filename, source.name)
        else:
            return None
        found |= {name: (filename, info) for name, info in infos.items()}
    return found


def inventory_of(
    source: Source,
    stored: Mapping[str, tuple[str, TensorInfo]],
    facts: Mapping[str, Any],
    families: Families | None = None,
) -> TensorInventory:
    """What files with these `stored` tensors hold of the model with these `facts`.

    By the family's own names where all tensors have them, else by transformers' rules. Raises as `schema_of` does.
    """
    schema = schema_of(facts, source.name, families)
    infos = {name: info for name, (_, info) in stored.items()}
    naming = None
    if families is not None and facts["model_type"] in families:
        naming = plain_naming(infos, schema)
    if naming is None or not schema.all_names - naming.by_name().keys() <= set(schema.tied):
        model = model_of_names(build_config(facts, source.name))
        library = library_naming(infos, model)
        naming = library if naming is None or len(library.by_name()) > len(naming.by_name()) else naming
    naming = _swapped(naming, schema)
    return TensorInventory(
        schema, naming, stored, tuple(_problems(naming, schema, infos, source.name, facts["model_type"]))
    )


def _swapped(naming: Naming, schema: Schema) -> Naming:
    """Where only the tied name is stored, it is the one tensor that both names mean."""
    present = naming.by_name().keys()
    names: dict[str, str] = {}
    for target, source in schema.tied.items():
        if target in present and source not in present and source not in names.values():
            names[target] = source
    return naming.renamed(names) if names else naming


def _problems(naming: Naming, schema: Schema, infos: Mapping[str, TensorInfo], model: str, kind: str) -> list[Problem]:
    shapes = schema.shapes | {target: schema.shapes[source] for target, source in schema.tied.items()}
    groups = naming.by_name()
    missing = [name for name in schema.shapes if name not in groups]
    wrapper = _wrapper(naming.unknown, shapes) if missing else None
    if wrapper is not None:
        left_by, advice = WRAPPERS[wrapper]
        return [Problem(f"the tensors of '{model}' have '{wrapper}' in their names, as left by {left_by}", advice)]
    sentences = []
    if naming.unknown:
        more = _more(naming.unknown)
        sentences.append(
            f"'{model}' has a tensor '{plain(naming.unknown[0])}'{more} that its configuration does not know"
        )
    for first, second in naming.repeated[:1]:
        sentences.append(f"'{model}' stores one tensor twice, as '{plain(first)}' and as '{plain(second)}'")
    if missing:
        sentences.append(f"'{model}' lacks the tensor '{missing[0]}'{_more(missing)}")
    mistyped = [name for group in naming.groups for name in group.stored if infos[name].dtype not in DTYPES]
    misshapen = [
        (group.stored[0], list(there), list(shapes[name]))
        for group in naming.groups
        for name, there in _loaded_shapes(group, infos).items()
        if name in shapes and there != shapes[name]
    ]
    for stored, shape, expected in misshapen[:1]:
        sentences.append(f"'{plain(stored)}' of '{model}'{_more(misshapen)} has shape {shape}; expected {expected}")
    for stored in mistyped[:1]:
        which = f"'{plain(stored)}' of '{model}'{_more(mistyped)}"
        sentences.append(f"{which} has dtype {infos[stored].dtype}; expected F32, F16 or BF16")
    advice = f"its config.json is of type '{kind}'; repair or replace this checkpoint"
    return [Problem(sentence, advice) for sentence in sentences]


def _loaded_shapes(group: Conversion, infos: Mapping[str, TensorInfo]) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors that a group becomes; none where its parts do not fit each other."""
    empty = {name: torch.empty(infos[name].shape, device="meta") for name in group.stored}
    try:
        return {name: tuple(value.shape) for name, value in group.loaded(empty).items()}
    except Exception:
        return dict.fromkeys(group.names, ())


def _more(several: Sequence[object]) -> str:
    return f" (and {len(several) - 1} more)" if len(several) > 1 else ""


def _wrapper(unknown: Sequence[str], shapes: Mapping[str, object]) -> str | None:
    """The part of names that a wrapper left, where the tensors are those of the model without it."""
    for wrapper in WRAPPERS:
        inside = [name for name in unknown if wrapper in name.split(".")]
        bare = [".".join(part for part in name.split(".") if part not in WRAPPERS) for name in inside]
        tails = {name.split(".", 1)[-1] for name in shapes}
        if any(name in shapes or name in tails or name.removeprefix("model.") in shapes for name in bare):
            return wrapper
    everywhere = (wrapper for wrapper in WRAPPERS if all(wrapper in name.split(".") for name in unknown))
    return next(everywhere, None) if unknown else None
