"""The files of a model that is a base and an adapter: the base's, with the tokenizer of the adapter if it has one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from typing_extensions import override

from ..checks.repository import OTHER, licence_of
from ..errors import BadInput, ModelNotFound
from ..file_version import opened
from ..headers import TensorInfo
from ..overlaid_source import OverlaidSource
from ..pickles import pickle_header
from ..small_files import ADAPTER, CONFIGURATION, TEMPLATE, VOCABULARIES, is_tokenizer_file
from ..source import Source
from ..weight_files import ADAPTERS, WeightFiles
from .adapter_settings import AdapterSettings


class AdapterFiles(Source):
    """The files of an adapter alone."""

    @override
    def _require_kind(self) -> None:
        if ADAPTER not in self.files:
            raise ModelNotFound(f"'{self.name}' holds no {ADAPTER}: what comes after + is an adapter saved by peft")

    @cached_property
    def settings(self) -> AdapterSettings:
        """What its configuration says. Raises as `AdapterSettings.of` does."""
        return AdapterSettings.of(self.json(ADAPTER), self.name)

    @cached_property
    @override
    def weights(self) -> WeightFiles:
        """The file of its tensors. Raises ModelNotFound where there is none."""
        names = [name for name in ADAPTERS if name in self.files]
        if not names:
            raise ModelNotFound(f"'{self.name}' holds no weights of an adapter: expected {' or '.join(ADAPTERS)}")
        return WeightFiles((names[0],), None, tuple(names[1:]))

    def tensor_infos(self) -> dict[str, TensorInfo] | None:
        """Names, shapes and dtypes of its tensors; None for a pickled file on the Hub, which has no header."""
        name = self.weights.files[0]
        if name.endswith(".safetensors"):
            return self.header(name)
        if not self.is_local(name):
            return None
        with opened(self.path(name), self.version(name), self.name) as file:
            return pickle_header(file, name, self.name)


class AdaptedSource(OverlaidSource):
    """The files of a `base` with those of an `adapter` in front of them: its tokenizer, if it has one.

    The weights are the base's; the adapter's own are read through `adapter`.
    """

    def __init__(self, base: Source, adapter: AdapterFiles):
        if ADAPTER in base.files:
            raise BadInput(f"the base '{base.name}' holds an adapter itself: merge that into it first")
        in_front = _tokenizer_files(adapter.files)
        whole = not set(VOCABULARIES).isdisjoint(in_front)  # else it is a chat template alone
        super().__init__(base, adapter, in_front, list(filter(is_tokenizer_file, base.files)) if whole else ())
        self.base, self.adapter = base, adapter
        self.reference = replace(base.reference, adapter=adapter.reference)
        self.name = self.reference.name
        revisions = [part.revision for part in self.parts]
        self.revision = None if None in revisions else "+".join(map(str, revisions))

    @property
    @override
    def parts(self) -> tuple[Source, ...]:
        return (self.base, self.adapter)

    @property
    @override
    def permanent_name(self) -> str:
        return "+".join(part.permanent_name for part in self.parts)

    @override
    def require_unchanged(self, filenames: Iterable[str]) -> None:
        super().require_unchanged(filenames)
        self.adapter.require_unchanged({ADAPTER, *self.adapter.weights.files})

    @cached_property
    @override
    def card(self) -> str:
        return self.adapter.card

    @cached_property
    @override
    def metadata(self) -> Mapping[str, Any]:
        """The metadata of the adapter's card, under the licences of both; under none where one of them names none."""
        licences = list(dict.fromkeys(licence_of(part.metadata) for part in self.parts))
        rest = {key: value for key, value in self.adapter.metadata.items() if not key.startswith("license")}
        if None in licences:
            return rest
        if len(licences) > 1:
            return {**rest, "license": OTHER, "license_name": " and ".join(map(str, licences))}
        return self.adapter.metadata

    @property
    @override
    def card_problem(self) -> str | None:
        return self.base.card_problem or self.adapter.card_problem


def _tokenizer_files(names: Iterable[str]) -> list[str]:
    """The files of an adapter's tokenizer, all together; or its chat template alone."""
    names = [name for name in names if is_tokenizer_file(name) and name != CONFIGURATION]
    if set(VOCABULARIES).isdisjoint(names):
        return [name for name in names if name == TEMPLATE]
    return names
