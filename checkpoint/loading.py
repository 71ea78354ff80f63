"""A checkpoint: configuration and weights, both loaded when they are first used, and its tokenizer."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .adapters.adapted_source import AdaptedSource
from .adapters.adapted_weights import AdaptedWeights
from .checks.finding import Finding
from .checks.kind import kind_findings, tensor_findings
from .config import read_facts, untied_facts, working_config
from .config_limits import require_tensors
from .errors import BadInput, CorruptCheckpoint
from .lazy_state import DTYPES, with_copies
from .model import Families, Schema
from .naming import Naming
from .one_vocabulary import UnifiedSource
from .opening import open_source
from .reference import Reference, parse_reference
from .rust_panics import is_failure, quiet_panics
from .size_limits import require_tokenizer_file
from .small_files import GENERATION, VOCABULARIES
from .source import Source
from .tensor_inventory import inventory_of, stored_tensors
from .working_folders import WorkingFolder

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

TRIAL = "A line of text, with 12 numbers, é and more.\n" * 8


@dataclass(frozen=True)
class Checkpoint:
    """A model: `state` (read lazily, float32), the `dtype` of the files, and the small files by name.

    `facts` is the content of config.json, `schema` the tensors that follow from it, `naming` their names in the files.
    The small files are copies of the version that was opened; `source` has the original files.
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
    _copies: WorkingFolder | None = field(default=None, repr=False, compare=False)

    @cached_property
    def config(self) -> PretrainedConfig:
        """The configuration that transformers builds from `facts`."""
        return working_config(self.facts, self.name)

    @property
    def model_type(self) -> str:
        """The architecture by its name in transformers."""
        return str(self.facts["model_type"])

    @property
    def has_tokenizer(self) -> bool:
        """Whether there are tokenizer files."""
        return not self.files.keys().isdisjoint(VOCABULARIES)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the model. Raises BadInput if it has none that transformers can load."""
        from transformers import AutoTokenizer

        directory = self.files["config.json"].parent
        if "tokenizer.json" in self.files:
            require_tokenizer_file(self.files["tokenizer.json"], f"'tokenizer.json' of '{self.name}'")
        try:
            if not self.has_tokenizer:  # transformers would build an empty one
                raise FileNotFoundError
            with quiet_panics():
                tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
                # A damaged tokenizer may load, and fail only when it is used.
                ids = tokenizer.encode(TRIAL, add_special_tokens=False, verbose=False)
            if not all(type(number) is int for number in (*ids, tokenizer.eos_token_id or 0)):
                raise TypeError("a token's id is not a number")
        except BaseException as error:
            if not is_failure(error):
                raise
            raise BadInput(
                f"'{self.name}' has no tokenizer that transformers can read: add its tokenizer files (tokenizer.json), "
                "or merge without --data"
            ) from None
        return tokenizer

    def generation(self) -> GenerationConfig:
        """The generation settings that transformers uses: generation_config.json, else the keys of config.json."""
        from transformers import GenerationConfig

        if GENERATION in self.files:
            try:
                return GenerationConfig.from_pretrained(self.files[GENERATION].parent)
            except (OSError, ValueError):
                pass  # transformers ignores a file that it cannot read
        return GenerationConfig.from_model_config(self.config)

    def untied(self) -> Checkpoint:
        """The same model with its unembedding stored apart from the embedding, for a merge with an untied model."""
        tied = self.schema.tied
        if not tied:
            return self
        state = with_copies(self.state, tied)
        return replace(self, facts=untied_facts(self.facts), schema=self.schema.untied(), state=state)

    @property
    def place(self) -> Reference:
        """Where the model is: the reference that it was opened by, with the base of an adapter that was named alone."""
        return parse_reference(self.reference) if self.source is None else self.source.reference

    @property
    def directory(self) -> Path:
        """The folder of the original files."""
        return (self.files["config.json"] if self.source is None else self.source.path("config.json")).parent

    def as_stored(
        self, shapes: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]
    ) -> tuple[dict[str, tuple[int, ...]], Mapping[str, Tensor]]:
        """The shapes and tensors of a state of this model, under the names in its files."""
        return self.naming.as_stored(shapes, state)

    def require_unchanged(self) -> None:
        """Raise CorruptCheckpoint if config.json or a file of weights has changed since the model was opened."""
        if self.source is not None:
            self.source.require_unchanged(("config.json", *self.source.weights.files))


def _require_none(findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.kind == "blocks":
            raise BadInput(str(finding))


def load(reference: str | Path, *, families: Families | None = None, source: Source | None = None) -> Checkpoint:
    """Open a checkpoint: a directory, or a Hub id with optional ``@revision`` and ``:subfolder``; ``base+adapter``.

    Headers and small files are read now, weights when they are looked up. Tensors have the names of transformers in
    memory; stored masks are dropped. Tied tensors that are stored separately are compared now: if they differ, the
    model is untied, as transformers would load it. `families` know the tensors of their models (`schema`). `source` are
    the files of the model if they are open already: every later read is of that version.

    Raises ModelNotFound, CorruptCheckpoint, BadInput (`isthmus.checkpoint.errors`), each in one sentence.
    """
    source = source or open_source(parse_reference(reference))
    if isinstance(source, UnifiedSource):
        return _unified(source, reference, families)
    whole = source.parts[0]  # the files of the weights
    facts = read_facts(whole)
    _require_none(kind_findings(whole, facts, families))
    for part in source.parts:
        part.fetch(part.weights.files)
    stored = stored_tensors(whole)
    assert stored is not None, "pickled weights were fetched above"
    require_tensors(facts, len(stored), whole.name)
    contents = inventory_of(whole, stored, facts, families)
    _require_none(tensor_findings(whole.name, contents.naming.foreign, "weights"))
    if contents.problems:
        more = f" (and {len(contents.problems) - 1} more problems)" if len(contents.problems) > 1 else ""
        raise CorruptCheckpoint(f"{contents.problems[0]}{more}")
    tied, contents = contents.schema.tied, contents.with_ties_resolved(whole)
    dtype = DTYPES[contents.dtypes[0]] if len(contents.dtypes) == 1 else torch.float32
    state: Mapping[str, Tensor] = contents.state(whole)
    schema = contents.schema
    if tied and not schema.tied:
        facts = untied_facts(facts)
        state = with_copies(state, {name: tied[name] for name in schema.shapes if name not in state})
    if isinstance(source, AdaptedSource):
        adapted = AdaptedWeights.of(facts, schema, state, source, families)
        facts, schema, state = adapted.facts, adapted.schema, adapted.state
    files, copies = _small_files(source)
    return Checkpoint(
        source.name,
        reference,
        source.revision,
        facts,
        schema,
        state,
        dtype,
        files,
        contents.naming,
        source,
        copies,
    )


def _unified(source: UnifiedSource, reference: str | Path, families: Families | None) -> Checkpoint:
    def load_as_it_is(one: Source) -> Checkpoint:
        return load(one.name, families=families, source=one)

    inner, facts, schema, state = source.unified(load_as_it_is, families)
    files, copies = _small_files(source)
    return replace(
        inner,
        reference=reference,
        facts=facts,
        schema=schema,
        state=state,
        files=files,
        source=source,
        _copies=copies,
    )


def _small_files(source: Source) -> tuple[dict[str, Path], WorkingFolder | None]:
    """The small files of a model; those of a directory, and of several places, are copied to a folder that lives as
    long as the checkpoint.
    """
    files = source.small_files()
    if source.reference.on_hub and type(source) is Source:
        return files, None
    folder = WorkingFolder(Path(tempfile.gettempdir(), "isthmus-files-"))
    copies = {name: folder.path / name for name in files}
    for name, path in copies.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.content(name))
    return copies, folder
