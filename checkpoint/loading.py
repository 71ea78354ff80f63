"""A checkpoint: configuration and weights, both made when they are asked for, and its tokenizer."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from isthmus.checkpoint.archive import require_archive
from isthmus.checkpoint.bounds import (
    LARGEST,
    read_bytes,
    require_pipeline_text,
    require_tensors,
    require_values,
)
from isthmus.checkpoint.config import build_config, read_facts, schema_of, untied_facts
from isthmus.checkpoint.errors import BadInput, CorruptCheckpoint
from isthmus.checkpoint.foreign import plain
from isthmus.checkpoint.headers import TensorInfo
from isthmus.checkpoint.model import Families, Schema
from isthmus.checkpoint.reference import parse_reference
from isthmus.checkpoint.rows import row_counts
from isthmus.checkpoint.source import TOKENIZER_FILES, Source

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

NAME = 200  # characters of a tensor's name in a sentence
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class LazyState(Mapping[str, Tensor]):
    """A state on disk. Every look-up reads one tensor by memory map, checks it, and gives it in float32.

    A file is mapped only while one of its tensors is read, so that what was read and dropped takes no memory.
    """

    def __init__(self, entries: dict[str, tuple[Path, str, TensorInfo]], model: str):
        self._entries, self._model = entries, model
        self._pickles: dict[Path, dict[str, Tensor]] = {}

    def __getitem__(self, name: str) -> Tensor:
        path, stored, _ = self._entries[name]
        if path.suffix == ".safetensors":
            from safetensors import SafetensorError, safe_open

            try:
                with safe_open(path, framework="pt") as file:
                    tensor = file.get_tensor(stored)
            except (SafetensorError, OSError) as error:
                raise CorruptCheckpoint(f"cannot read '{name}' of '{self._model}': {error}") from None
        else:
            if path not in self._pickles:
                self._pickles[path] = _read_pickle(path, self._model)
            tensor = self._pickles[path][stored]
        if not self._holds_numbers(name, tensor) and tensor.ndim > 1:
            raise self._all_zero(name)
        return torch.as_tensor(tensor, dtype=torch.float32)

    def blocks(self, name: str) -> Iterator[Tensor]:
        """One tensor in blocks of rows (`isthmus.checkpoint.rows`), read one by one, checked as a look-up does."""
        path, _, info = self._entries[name]
        if path.suffix != ".safetensors":
            yield from torch.split(self[name], row_counts(info.shape))
            return
        nonzero = len(info.shape) < 2
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(info.start)
                for rows in row_counts(info.shape):
                    block = torch.empty((rows, *info.shape[1:]), dtype=DTYPES[info.dtype])
                    into = block.view(-1).view(torch.uint8).numpy().data
                    while len(into):
                        count = file.readinto(into)
                        if not count:
                            raise CorruptCheckpoint(f"'{path.name}' of '{self._model}' was cut off while it was read")
                        into = into[count:]
                    nonzero |= self._holds_numbers(name, block)
                    yield block.float()
        except OSError as error:
            raise CorruptCheckpoint(f"cannot read '{name}' of '{self._model}': {error.strerror}") from None
        if not nonzero:
            raise self._all_zero(name)

    def _holds_numbers(self, name: str, tensor: Tensor) -> bool:
        """Whether any number in it is other than zero. Raises CorruptCheckpoint where one is NaN or Inf."""
        # A sum is finite and other than zero only if the tensor is, and needs no second tensor of its size.
        total = tensor.sum(dtype=torch.float32)
        if not torch.isfinite(total) and not torch.isfinite(tensor).all():
            raise CorruptCheckpoint(f"'{name}' of '{self._model}' holds NaN or Inf: the model cannot be merged")
        return bool(total != 0) or bool(tensor.any())

    def _all_zero(self, name: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(
            f"'{name}' of '{self._model}' is all zero: the checkpoint was never trained or is damaged"
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _read_pickle(path: Path, model: str) -> dict[str, Tensor]:
    """Tensors by name, by memory map; files written before torch 1.6 are no zip and are read whole."""
    require_archive(path, model)
    try:
        content = torch.load(path, weights_only=True, mmap=zipfile.is_zipfile(path), map_location="cpu")
        tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    except pickle.UnpicklingError:
        raise CorruptCheckpoint(
            f"'{path.name}' of '{model}' holds more than weights, and was not executed: ask its author for safetensors"
        ) from None
    except Exception as error:
        raise CorruptCheckpoint(
            f"'{path.name}' of '{model}' cannot be read ({type(error).__name__}): fetch it again"
        ) from None
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > path.stat().st_size:
            raise CorruptCheckpoint(
                f"'{str(name)[:100]}' in '{path.name}' of '{model}' claims the shape {list(tensor.shape)[:8]}, more "
                "than the file holds: do not trust this model"
            )
    return tensors


@dataclass(frozen=True)
class Checkpoint:
    """A model: `state` (read lazily, float32), `dtype` as stored, and its small files by name.

    `facts` is what config.json says, `schema` the tensors that follow from it.
    """

    name: str
    reference: str | Path
    revision: str | None
    facts: Mapping[str, Any] = field(repr=False)
    schema: Schema = field(repr=False)
    state: Mapping[str, Tensor] = field(repr=False)
    dtype: torch.dtype
    files: dict[str, Path] = field(repr=False)

    @cached_property
    def config(self) -> PretrainedConfig:
        """The configuration, as transformers makes it of `facts`."""
        return build_config(self.facts, self.name)

    @property
    def model_type(self) -> str:
        """The architecture, as transformers names it."""
        return str(self.facts["model_type"])

    @property
    def has_tokenizer(self) -> bool:
        """Whether there are tokenizer files."""
        return not TOKENIZER_FILES.isdisjoint(self.files)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer. Raises BadInput when it has none."""
        from transformers import AutoTokenizer

        directory = self.files["config.json"].parent
        if "tokenizer.json" in self.files:
            where = f"'tokenizer.json' of '{self.name}'"
            raw = read_bytes(self.files["tokenizer.json"], LARGEST["tokenizer.json"], where)
            require_pipeline_text(require_values(raw, where), where)
        try:
            if not self.has_tokenizer:  # transformers would make an empty one
                raise FileNotFoundError
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        except Exception:
            raise BadInput(
                f"'{self.name}' has no tokenizer that transformers can read: add its tokenizer files (tokenizer.json), "
                "or merge without --data"
            ) from None
        return tokenizer

    def untied(self) -> Checkpoint:
        """The same model with an unembedding of its own, for a merge with one that has it."""
        tied = self.schema.tied
        if not tied:
            return self
        state = dict(self.state) | {target: self.state[source].clone() for target, source in tied.items()}
        schema = Schema({name: tuple(tensor.shape) for name, tensor in state.items()}, {}, self.schema.prefix)
        return replace(self, facts=untied_facts(self.facts), schema=schema, state=state)


def stored_tensors(source: Source) -> dict[str, tuple[str, TensorInfo]] | None:
    """Stored name → (file, header entry) of all tensors; None for pickled weights on the Hub, which have no header."""
    found: dict[str, tuple[str, TensorInfo]] = {}
    for filename in source.weight_files():
        if filename.endswith(".safetensors"):
            infos = source.header(filename)
        elif source.is_local(filename):
            infos = {
                name: TensorInfo(_DTYPE_NAMES.get(value.dtype, str(value.dtype)), tuple(value.shape))
                for name, value in _read_pickle(source.path(filename), source.name).items()
            }
        else:
            return None
        found |= {name: (filename, info) for name, info in infos.items()}
    return found


def match_names(
    stored: Mapping[str, tuple[str, TensorInfo]], names: Schema, model: str
) -> tuple[dict[str, str], list[str]]:
    """Model name → stored name, and one sentence per missing, extra or misshapen tensor."""
    found: dict[str, str] = {}
    problems = []
    for name_there, (_, info) in stored.items():
        name = names.name(name_there)
        if name is None:
            continue
        if name not in names.shapes:
            problems.append(f"'{model}' has a tensor '{plain(name_there, NAME)}' that its configuration does not know")
            continue
        found[name] = name_there
        if info.shape != names.shapes[name]:
            problems.append(
                f"'{plain(name_there, NAME)}' of '{model}' has shape {list(info.shape)}; expected "
                f"{list(names.shapes[name])}"
            )
        elif info.dtype not in DTYPES:
            problems.append(
                f"'{plain(name_there, NAME)}' of '{model}' has dtype {info.dtype}; expected F32, F16 or BF16"
            )
    problems += [f"'{model}' lacks the tensor '{name}'" for name in names.shapes if name not in found]
    return found, problems


def load(reference: str | Path, *, families: Families | None = None) -> Checkpoint:
    """Open a checkpoint: a directory, or a Hub id with optional ``@revision`` and ``:subfolder``.

    Headers and small files are read now, weights when they are looked up. Names are those of transformers, with the
    base model's prefix; tied heads and stored masks are dropped. `families` know their tensors (`schema`).

    Raises ModelNotFound, CorruptCheckpoint, BadInput (`isthmus.checkpoint.errors`), each in one sentence.
    """
    source = Source(parse_reference(reference))
    facts = read_facts(source)
    paths = {filename: source.path(filename) for filename in source.weight_files()}
    stored = stored_tensors(source)
    assert stored is not None, "pickled weights were fetched above"
    require_tensors(facts, len(stored), source.name)
    names = schema_of(facts, source.name, families)
    found, problems = match_names(stored, names, source.name)
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise CorruptCheckpoint(problems[0] + more)
    dtypes = {stored[name][1].dtype for name in found.values()}
    dtype = DTYPES[dtypes.pop()] if len(dtypes) == 1 else torch.float32
    entries = {name: (paths[stored[found[name]][0]], found[name], stored[found[name]][1]) for name in names.shapes}
    state = LazyState(entries, source.name)
    return Checkpoint(source.name, reference, source.revision, facts, names, state, dtype, source.small_files())
