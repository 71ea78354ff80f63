"""A checkpoint: configuration and weights, both made when they are asked for, and its tokenizer."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from isthmus.checkpoint.config import build_config, read_facts, untied_facts
from isthmus.checkpoint.contents import contents_of, stored_tensors
from isthmus.checkpoint.errors import BadInput, CorruptCheckpoint
from isthmus.checkpoint.model import Families, Schema
from isthmus.checkpoint.naming import Naming
from isthmus.checkpoint.reference import parse_reference
from isthmus.checkpoint.source import TOKENIZER_FILES, Source
from isthmus.checkpoint.state import DTYPES, WithCopies

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Checkpoint:
    """A model: `state` (read lazily, float32), `dtype` as stored, and its small files by name.

    `facts` is what config.json says, `schema` the tensors that follow from it, `naming` how the files name them. The
    small files are copies, all of the version that was opened; `source` has the model's own files.
    """

    name: str
    reference: str | Path
    revision: str | None
    facts: Mapping[str, Any] = field(repr=False)
    schema: Schema = field(repr=False)
    state: Mapping[str, Tensor] = field(repr=False)
    dtype: torch.dtype
    files: dict[str, Path] = field(repr=False)
    naming: Naming = field(default=Naming(()), repr=False, compare=False)
    source: Source | None = field(default=None, repr=False, compare=False)

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
        state = WithCopies(self.state, tied)
        return replace(self, facts=untied_facts(self.facts), schema=self.schema.untied(), state=state)

    @property
    def directory(self) -> Path:
        """Where the model's own files are."""
        return (self.files["config.json"] if self.source is None else self.source.path("config.json")).parent

    def as_stored(
        self, shapes: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]
    ) -> tuple[dict[str, tuple[int, ...]], Mapping[str, Tensor]]:
        """The shapes and the tensors of a state like this one's, under the names that this model's files have."""
        return self.naming.as_stored(shapes, state)

    def require_unchanged(self) -> None:
        """Raise CorruptCheckpoint when a file of the weights is not what it was when the model was opened."""
        if self.source is not None:
            self.source.require_unchanged(("config.json", *self.source.weight_files()))


def load(reference: str | Path, *, families: Families | None = None, source: Source | None = None) -> Checkpoint:
    """Open a checkpoint: a directory, or a Hub id with optional ``@revision`` and ``:subfolder``.

    Headers and small files are read now, weights when they are looked up. Names are those of transformers in memory;
    stored masks are dropped. Tied tensors that are stored apart are read now: where they differ, the model is untied,
    as transformers loads it. `families` know their tensors (`schema`). `source` are its files, where they were opened
    before: every later read is of that version.

    Raises ModelNotFound, CorruptCheckpoint, BadInput (`isthmus.checkpoint.errors`), each in one sentence.
    """
    source = source or Source(parse_reference(reference))
    facts = read_facts(source)
    for filename in source.weight_files():
        source.path(filename)
    stored = stored_tensors(source)
    assert stored is not None, "pickled weights were fetched above"
    contents = contents_of(source, stored, facts, families)
    if contents.problems:
        more = f" (and {len(contents.problems) - 1} more problems)" if len(contents.problems) > 1 else ""
        raise CorruptCheckpoint(f"{contents.problems[0]}{more}")
    tied, contents = contents.schema.tied, contents.settled(source)
    dtype = DTYPES[contents.dtypes[0]] if len(contents.dtypes) == 1 else torch.float32
    state: Mapping[str, Tensor] = contents.state(source)
    if tied and not contents.schema.tied:
        facts = untied_facts(facts)
        state = WithCopies(state, {name: tied[name] for name in contents.schema.shapes if name not in state})
    return Checkpoint(
        source.name,
        reference,
        source.revision,
        facts,
        contents.schema,
        state,
        dtype,
        _small_files(source),
        contents.naming,
        source,
    )


def _small_files(source: Source) -> dict[str, Path]:
    """The small files of a model; of one on disk, copies that nobody else writes to, until this process ends."""
    files = source.small_files()
    if source.reference.directory is None:
        return files
    folder = Path(tempfile.mkdtemp(prefix="isthmus-files-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # a merge copies them when the checkpoint may be gone
    copies = {name: folder / name for name in files}
    for name, path in copies.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.read(name))
    return copies
