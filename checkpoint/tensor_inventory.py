"""The tensors in a model's files, by their headers: under which names, and what does not fit the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from .checks.finding import Finding
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
from .wrapped_names import WRAPPERS, unwrapped, wrapper_of


@dataclass(frozen=True)
class TensorInventory:
    """The tensors in the files of a model: its `schema`, the `naming` of the files, and the file and header of each.

    `problems` are what does not fit. `naming` includes tied tensors that are stored separately. `wrappers` are parts of
    names that something around the model added, and that are not read.
    """

    schema: Schema
    naming: Naming
    infos: Mapping[str, tuple[str, TensorInfo]] = field(repr=False)
    problems: tuple[Finding, ...]
    wrappers: tuple[str, ...] = ()

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes of the model's tensors, by their names in safetensors."""
        return tuple(sorted({self.infos[name][1].dtype for name in self._stored_names}))

    @property
    def _stored_names(self) -> list[str]:
        return [name for conversion in self.naming.conversions for name in conversion.stored]

    def state(self, source: Source) -> LazyState:
        """The stored tensors of the model, read when they are looked up."""
        stored = {}
        for name in self._stored_names:
            file, info = self.infos[name]
            stored[name] = StoredTensor(source.path(file), source.version(file), name, info)
        conversions = self.naming.by_name()
        names = [name for name in (*self.schema.shapes, *self.schema.tied) if name in conversions]
        return LazyState({name: conversions[name] for name in names}, stored, source.name, source)

    def with_ties_resolved(self, source: Source) -> TensorInventory:
        """The inventory after tied tensors that are stored twice are compared: tied if they are equal, else untied.

        transformers does the same on loading. A state of the result has each tensor once.
        """
        present = self.naming.by_name()
        both = [(target, first) for target, first in self.schema.tied.items() if target in present]
        if both and any(first in present for _, first in both):
            state = self.state(source)
            if not all(_equal(state, target, first) for target, first in both if first in present):
                # transformers then ties nothing, so the other tied tensors are separate copies, too.
                return replace(self, schema=self.schema.untied())
        conversions = self.naming.conversions
        drop = {conversion.stored for conversion in conversions if conversion.names[0] in self.schema.tied}
        rest = tuple(conversion for conversion in conversions if conversion.stored not in drop)
        return replace(self, naming=replace(self.naming, conversions=rest))


def _equal(state: LazyState, target: str, source: str) -> bool:
    blocks = zip(in_blocks(state, target), in_blocks(state, source), strict=True)
    return all(torch.equal(first, second) for first, second in blocks)


def stored_tensors(source: Source) -> dict[str, tuple[str, TensorInfo]] | None:
    """The file and header entry of every tensor by name; None for pickled weights on the Hub, which have no header."""
    stored: dict[str, tuple[str, TensorInfo]] = {}
    for filename in source.weights.files:
        if filename.endswith(".safetensors"):
            infos = source.header(filename)
        elif source.is_local(filename):
            with opened(source.path(filename), source.version(filename), source.name) as file:
                infos = pickle_header(file, filename, source.name)
        else:
            return None
        stored |= {name: (filename, info) for name, info in infos.items()}
    return stored


def inventory_as(source: Source, facts: Mapping[str, Any], families: Families | None = None) -> TensorInventory | None:
    """The inventory of files as those of another model with the same body: what they hold for it, beside what they are.

    None for pickled weights on the Hub. Raises as `schema_of` does.
    """
    stored = stored_tensors(source)
    return None if stored is None else inventory_of(source, stored, facts, families)


def inventory_of(
    source: Source,
    stored: Mapping[str, tuple[str, TensorInfo]],
    facts: Mapping[str, Any],
    families: Families | None = None,
) -> TensorInventory:
    """The inventory of files with the tensors `stored`, for the model with these `facts`.

    The names are those of the family if all tensors have them, else transformers' rules. Raises as `schema_of` does.
    """
    schema = schema_of(facts, source.name, families)
    infos = {name: info for name, (_, info) in stored.items()}
    naming = _naming(infos, schema, facts, source.name, families)
    wrappers: tuple[str, ...] = ()
    inside = unwrapped(infos) if _missing(naming, schema) else None
    if inside is not None:
        renamed = {inside.plain[name]: info for name, info in infos.items()}
        other = _naming(renamed, schema, facts, source.name, families)
        one_from_one = all(conversion.rule is None for conversion in other.conversions)
        if not _missing(other, schema) and not other.unknown and one_from_one:
            naming, wrappers = other.stored_as({rest: name for name, rest in inside.plain.items()}), inside.wrappers
    problems = _problems(naming, schema, infos, source, facts["model_type"])
    return TensorInventory(schema, naming, stored, tuple(problems), wrappers)


def _naming(
    infos: Mapping[str, TensorInfo], schema: Schema, facts: Mapping[str, Any], model: str, families: Families | None
) -> Naming:
    naming = None
    if families is not None and facts["model_type"] in families:
        naming = plain_naming(infos, schema)
    if naming is None or not schema.all_names - naming.by_name().keys() <= set(schema.tied):
        library = library_naming(infos, model_of_names(build_config(facts, model)), schema.buffers)
        naming = library if naming is None or len(library.by_name()) > len(naming.by_name()) else naming
    return _swapped(naming, schema)


def _missing(naming: Naming, schema: Schema) -> list[str]:
    return [name for name in schema.shapes if name not in naming.by_name()]


def _swapped(naming: Naming, schema: Schema) -> Naming:
    """If only the tied name of a tensor is stored, that tensor stands for both names."""
    present = naming.by_name().keys()
    names: dict[str, str] = {}
    for target, source in schema.tied.items():
        if target in present and source not in present and source not in names.values():
            names[target] = source
    return naming.renamed(names) if names else naming


def _problems(
    naming: Naming, schema: Schema, infos: Mapping[str, TensorInfo], source: Source, kind: str
) -> list[Finding]:
    model, where = source.name, source.weights.where
    shapes = schema.shapes | {target: schema.shapes[source] for target, source in schema.tied.items()}
    missing = _missing(naming, schema)
    wrapper = wrapper_of(naming.unknown, shapes) if missing else None
    if wrapper is not None:
        left_by, advice = WRAPPERS[wrapper]
        what = f"the tensors of '{model}' have '{wrapper}' in their names, as left by {left_by}"
        return [Finding("blocks", what, advice, where)]
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
    mistyped = [
        name for conversion in naming.conversions for name in conversion.stored if infos[name].dtype not in DTYPES
    ]
    misshapen = [
        (conversion.stored[0], list(shape), list(shapes[name]))
        for conversion in naming.conversions
        for name, shape in _loaded_shapes(conversion, infos).items()
        if name in shapes and shape != shapes[name]
    ]
    for stored, shape, expected in misshapen[:1]:
        sentences.append(f"'{plain(stored)}' of '{model}'{_more(misshapen)} has shape {shape}; expected {expected}")
    for stored in mistyped[:1]:
        which = f"'{plain(stored)}' of '{model}'{_more(mistyped)}"
        sentences.append(f"{which} has dtype {infos[stored].dtype}; expected F32, F16 or BF16")
    advice = f"its config.json is of type '{kind}'; repair or replace this checkpoint"
    return [Finding("blocks", sentence, advice, where) for sentence in sentences]


def _loaded_shapes(conversion: Conversion, infos: Mapping[str, TensorInfo]) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of the model; empty shapes if the stored tensors do not fit each other."""
    empty = {name: torch.empty(infos[name].shape, device="meta") for name in conversion.stored}
    try:
        return {name: tuple(value.shape) for name, value in conversion.loaded(empty).items()}
    except Exception:
        return dict.fromkeys(conversion.names, ())


def _more(several: Sequence[object]) -> str:
    return f" (and {len(several) - 1} more)" if len(several) > 1 else ""
