"""Models in GGUF, the format of llama.cpp: dequantized once, into a temporary directory, by transformers and gguf."""

from __future__ import annotations

import errno
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy
from typing_extensions import override

from .errors import BadInput, CorruptCheckpoint, IsthmusError, ModelNotFound, one_line
from .listing import Listing
from .reference import GGUF, Reference
from .rust_panics import is_failure
from .source import LooseFiles, Source
from .untrusted_text import plain
from .weight_files import IN_ORDER
from .working_folders import WorkingFolder

MAGIC = b"GGUF"
_ONE_AT_A_TIME = Lock()
PRECISE = frozenset({"F32", "F16", "BF16"})  # types that are not quantized


def gguf_name(listing: Listing, model: str) -> str | None:
    """The GGUF file of a listing that has no other weights; None where there is none.

    Raises BadInput where there are several.
    """
    if not set(IN_ORDER).isdisjoint(listing.files):
        return None
    names = sorted(name for name in listing.files if name.endswith(GGUF))
    if len(names) > 1:
        shown = ", ".join(f"'{plain(name)}'" for name in names[:3])
        raise BadInput(
            f"'{model}' holds {len(names)} GGUF files ({shown}{', ...' * (len(names) > 3)}): name the one that you "
            "mean, as DIR/FILE or user/model:FILE"
        )
    return names[0] if names else None


class GgufSource(Source):
    """The files of a model that a GGUF file was turned into; `types` counts its tensors by how they were stored.

    Raises BadInput without the package gguf, and for an architecture that transformers cannot read from GGUF;
    CorruptCheckpoint for a file that is damaged.
    """

    def __init__(self, file: Path, reference: Reference, listing: Listing):
        self._folder = WorkingFolder(Path(tempfile.gettempdir(), "isthmus-gguf-"))
        directory = self._folder.path / "model"
        self.types = _converted(file, directory)
        super().__init__(Reference(directory=directory))
        self._origin = LooseFiles(reference, listing)
        self.reference, self.name = reference, plain(reference.name)
        self.revision, self.repository = listing.revision, listing.repository

    @property
    def quantized(self) -> dict[str, int]:
        """How many tensors are quantized, by the name of the type."""
        return {kind: count for kind, count in self.types.items() if kind not in PRECISE}

    @override
    def path(self, filename: str) -> Path:
        return self._folder.path / "model" / filename

    @cached_property
    @override
    def card(self) -> str:
        return self._origin.card

    @cached_property
    @override
    def metadata(self) -> Mapping[str, Any]:
        return self._origin.metadata

    @property
    @override
    def card_problem(self) -> str | None:
        return self._origin.card_problem

    @override
    def is_local(self, filename: str) -> bool:
        return True


def _converted(file: Path, directory: Path) -> Counter[str]:
    """Write a GGUF file as a model of transformers, and return the types of its tensors."""
    try:
        from gguf import GGUFReader
    except ImportError:
        raise BadInput(f"'{file.name}' is GGUF, for which isthmus needs gguf: pip install 'isthmus[gguf]'") from None
    try:
        with file.open("rb") as content:
            if content.read(4) != MAGIC:
                raise CorruptCheckpoint(f"'{file.name}' is truncated or not a GGUF file: fetch it again")
    except OSError as error:
        raise ModelNotFound(f"cannot read '{file.name}': {error.strerror}") from None
    try:
        types = Counter(tensor.tensor_type.name for tensor in GGUFReader(file).tensors)
        _convert(file, directory)
    except IsthmusError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise IsthmusError(f"the disk of temporary files is full, where '{file.name}' is dequantized") from None
        raise CorruptCheckpoint(f"transformers cannot read '{file.name}' ({one_line(error)}): fetch it again") from None
    except BaseException as error:
        if not is_failure(error) or isinstance(error, MemoryError):
            raise
        raise CorruptCheckpoint(
            f"transformers cannot read '{file.name}' ({type(error).__name__}: {one_line(error)}): fetch it again, or "
            "take the model in its own format"
        ) from None
    return types


def _convert(file: Path, directory: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from .trial_loading import quiet

    with _ONE_AT_A_TIME, quiet(), _without_bar():  # both change what is global
        read = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )
        # What is read so cannot be saved: it would be quantized again.
        facts = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
        facts = _shortest(facts)
        with torch.device("meta"):
            model = type(read)(type(read.config).from_dict(facts))
        model.load_state_dict(read.state_dict(), assign=True)
        model.save_pretrained(directory)
        AutoTokenizer.from_pretrained(
            file.parent, gguf_file=file.name, local_files_only=True, trust_remote_code=False
        ).save_pretrained(directory)


def _shortest(value: Any) -> Any:
    """Numbers of a configuration as they were before GGUF rounded them to float32: 1e-06, not 9.999999974752427e-07."""
    if isinstance(value, dict):
        return {key: _shortest(entry) for key, entry in value.items()}
    return float(str(numpy.float32(value))) if isinstance(value, float) else value


@contextmanager
def _without_bar() -> Iterator[None]:
    """Without the progress bar of transformers' reader, which has no switch."""
    from transformers import modeling_gguf_pytorch_utils

    reader: Any = modeling_gguf_pytorch_utils
    bar, reader.tqdm = reader.tqdm, lambda items, **_: items
    try:
        yield
    finally:
        reader.tqdm = bar
