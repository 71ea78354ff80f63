"""Which optimizer trained a checkpoint, by what its files say of it. Nothing that they hold is executed.

In the order in which they are believed: the optimizer's own state (`optimizer.pt`), the trainer's arguments
(`training_args.bin`), a recipe or report of isthmus, the trainer's state, the model card.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from .archive import DIRECTORY, PICKLE, Budget, require_archive, strings
from .errors import CorruptCheckpoint
from .manifest import REPORT
from .size_limits import DOCUMENT
from .source import CARD, Source
from .untrusted_text import plain

Confidence = Literal["stated", "likely", "unknown"]

STATES = ("optimizer.pt", "optimizer.bin")
ARGUMENTS, STATE, RECIPE = "training_args.bin", "trainer_state.json", "recipe.json"
DOCUMENTS = (ARGUMENTS, RECIPE, REPORT, STATE, CARD)
SMALL = DOCUMENT
WORD, LINE, NAMED = 40, 60, 10  # characters of a stranger's words, and endpoints, that are repeated
# Where the classes of a trainer's arguments come from; they are replaced by `_Inert`, and never imported.
TRAINERS = ("transformers", "accelerate", "trl", "peft", "torch", "sentence_transformers", "datasets")
# What libraries call the optimizers that leave one kind of weights.
ALIASES = {
    "adam": "adamw",
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_torch_xla": "adamw",
    "adamw_torch_npu_fused": "adamw",
    "adamw_apex_fused": "adamw",
    "adamw_hf": "adamw",
    "adamw_anyprecision": "adamw",
    "adamw_torch_4bit": "adamw",
    "adamw_torch_8bit": "adamw",
    "adamw_bnb_8bit": "adamw",
    "adamw_8bit": "adamw",
    "paged_adamw": "adamw",
    "paged_adamw_32bit": "adamw",
    "paged_adamw_8bit": "adamw",
    "lion_8bit": "lion",
    "lion_32bit": "lion",
    "paged_lion_8bit": "lion",
    "paged_lion_32bit": "lion",
}
# For one line, so that no character is looked at twice: over the whole card blank lines would be.
_CARD_LINE = re.compile(r"[\s>*_|-]{0,40}optimi[sz]er[\s*_]{0,40}[:=|][\s*_`]{0,40}(?:use\s{1,9})?(.*)", re.IGNORECASE)
_FACTORED = ("exp_avg_sq_row", "exp_avg_sq_col", "row_var", "col_var")
_MOMENTS = ("exp_avg", "exp_avg_sq", "exp_inf", "exp_avg_var", "mu_product")
_KEYS = frozenset((*_FACTORED, *_MOMENTS, "ns_steps", "ns_coefficients", "momentum_buffer", "dampening"))
_CARD_TEXT = re.compile(
    r"\b(?:pre-?)?train(?:ed|ing)\s{1,9}(?:with|using|by)\s{1,9}(?:the\s{1,9})?(\w{1,40})", re.IGNORECASE
)
_NAMES = ("adamw", "adam", "muon", "lion", "sgd", "adafactor", "shampoo", "soap", "sophia", "lamb")


@dataclass(frozen=True)
class Evidence:
    """What one source says: an optimizer's name, in lower case, or None; how sure that is; and why, for people."""

    optimizer: str | None
    confidence: Confidence
    why: str


def documents(source: Source) -> list[Evidence]:
    """What the files of a model say of its optimizer, the most trustworthy first. Only small files are fetched.

    Raises CorruptCheckpoint for a `training_args.bin` that holds code.
    """
    found = [_from_state(source, name) for name in STATES if name in source.files]
    readers: dict[str, Callable[[Source], Evidence | None]] = {
        ARGUMENTS: _from_arguments,
        RECIPE: _from_recipe,
        REPORT: _from_report,
        STATE: _from_trainer_state,
        CARD: _from_card,
    }
    small = (name for name in readers if name in source.files and (source.files[name].size or 0) <= SMALL)
    found += [readers[name](source) for name in small]
    return [evidence for evidence in found if evidence is not None]


def conclude(said: Sequence[Evidence], seen: Evidence | None = None) -> Evidence:
    """The optimizer that documents and, where it was measured, the spectrum (`seen`) agree on, or why it is unknown."""
    named = [evidence for evidence in said if evidence.optimizer is not None]
    if not named:
        return seen or (said[0] if said else Evidence(None, "unknown", "no file says, and no spectrum was measured"))
    first = named[0]
    others = [*named[1:], *([seen] if seen and seen.optimizer else [])]
    against = [evidence for evidence in others if evidence.optimizer != first.optimizer]
    if against:
        return Evidence(None, "unknown", f"{first.why}, but {against[0].why}")
    return first


def relation(optimizers: Sequence[str | None]) -> Literal["same-optimizer", "cross-optimizer", "unknown"]:
    """Whether models were trained by one optimizer."""
    if None in optimizers:
        return "unknown"
    return "same-optimizer" if len(set(optimizers)) == 1 else "cross-optimizer"


def canonical_name(written: str) -> str | None:
    """The optimizer that some words name: ``adamw`` for Adam and its variants; None where they name none or several."""
    words = re.findall(r"[a-z0-9_]+", written[:200].lower().replace("optimizernames.", ""))
    if words and words[0] in ALIASES:
        return ALIASES[words[0]]
    found = {ALIASES.get(name, name) for name in _NAMES if name in words}
    return found.pop() if len(found) == 1 else None


def _content(source: Source, filename: str) -> dict[str, Any]:
    """A JSON file that is no part of the model, so that its damage is none of the merge's."""
    try:
        return source.json(filename)
    except CorruptCheckpoint:
        return {}


def _stated(optimizer: str | None, why: str) -> Evidence | None:
    return Evidence(optimizer, "stated", why) if optimizer else None


def _from_arguments(source: Source) -> Evidence | None:
    arguments = read_training_arguments(source.path(ARGUMENTS), source.name)
    value = arguments.get("optim")
    written = value if isinstance(value, str) else ""
    return _stated(ALIASES.get(written, plain(written, WORD) or None), f"{ARGUMENTS} says {plain(written, LINE)}")


class _Inert:
    """Stands for any class that a trainer's arguments hold: keeps what it is given, does nothing."""

    values: tuple[object, ...] = ()

    def __init__(self, *values: object):
        self.values = values

    def __setstate__(self, state: object) -> None:
        self.state = state


def read_training_arguments(path: Path, model: str) -> dict[str, Any]:
    """The content of a `training_args.bin`, read by torch's weights-only loader with every class made inert.

    Empty when it cannot be read. Raises CorruptCheckpoint when it asks for anything but the classes of a trainer.
    """
    try:
        if path.stat().st_size > SMALL or not zipfile.is_zipfile(path):
            return {}
        with path.open("rb") as file:
            require_archive(file, f"'{path.name}' of '{model}'")
    except (CorruptCheckpoint, OSError):
        return {}
    try:
        names = get_unsafe_globals_in_checkpoint(path)
        foreign = [name for name in names if name.partition(".")[0] not in TRAINERS]
        if foreign:
            raise CorruptCheckpoint(
                f"'{path.name}' of '{model}' would run {foreign[0]} when it is loaded, and was not: do not trust this "
                "model"
            )
        with safe_globals([(_Inert, name) for name in names]):
            content = torch.load(path, weights_only=True, map_location="cpu")
    except CorruptCheckpoint:
        raise
    except Exception:  # torch raises many kinds for a file that is damaged or none of its own; it says nothing then
        return {}
    state = content if isinstance(content, dict) else getattr(content, "state", {})
    if not isinstance(state, dict):
        return {}
    return {
        key: value.values[0] if isinstance(value, _Inert) and value.values else value for key, value in state.items()
    }


def _from_state(source: Source, filename: str) -> Evidence | None:
    """The optimizer by the names of what it keeps for every weight, read from the pickle's text without running it."""
    try:
        with source.open(filename) as file, zipfile.ZipFile(Budget(file, DIRECTORY + PICKLE)) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                return None  # torch compresses nothing; a stranger did, and may have made gigabytes of zeros small
            entry = next(e for e in members if e.filename.endswith("data.pkl") and e.file_size <= PICKLE)
            keys = {text for text in strings(archive.read(entry)) if text in _KEYS}
    except (
        NotImplementedError,
        StopIteration,
        ValueError,
        OSError,
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ):
        return None  # no archive of torch's, or a damaged one: it says nothing
    optimizer = optimizer_by_keys(keys)
    kept = ", ".join(sorted(keys & {"exp_avg", "exp_avg_sq", "momentum_buffer", "ns_steps"}))
    return _stated(optimizer, f"{filename} keeps {kept or 'what it keeps'}")


def optimizer_by_keys(keys: set[str]) -> str | None:
    """The optimizer whose state has these keys: two moments are AdamW's, one is Lion's, a momentum Muon's or SGD's."""
    if keys & {"ns_steps", "ns_coefficients"}:
        return "muon"
    if keys & {"exp_avg_sq_row", "exp_avg_sq_col", "row_var", "col_var"}:
        return "adafactor"
    if "momentum_buffer" in keys:
        return "sgd" if "dampening" in keys and "exp_avg" not in keys else None
    if "exp_avg" in keys:
        other = keys & {"exp_inf", "exp_avg_var", "mu_product"}
        return None if other else "adamw" if "exp_avg_sq" in keys else "lion"
    return None


def _from_recipe(source: Source) -> Evidence | None:
    content = _content(source, RECIPE)
    written = content.get("optimizer")
    ours = isinstance(written, str) and {"adamw_lr", "muon_lr", "steps"} <= content.keys()
    return _stated(canonical_name(str(written)), f"{RECIPE} says {plain(written, LINE)}") if ours else None


def _from_report(source: Source) -> Evidence | None:
    """A merge has the optimizer of its endpoints, if they share one; its own spectrum would tell of neither."""
    content = _content(source, REPORT)
    ends = content.get("endpoints")
    if not isinstance(ends, list) or not all(isinstance(end, Mapping) for end in ends):
        return None
    names = {written if isinstance(written := end.get("optimizer"), str) else None for end in ends}
    shared = names.pop() if len(names) == 1 else None
    listed = " and ".join(plain(end.get("ref"), LINE) for end in ends[:NAMED])
    more = f" and {len(ends) - NAMED} more" if len(ends) > NAMED else ""
    why = f"{REPORT} says that it was made from {listed}{more}"
    return Evidence(plain(shared, WORD), "stated", why) if isinstance(shared, str) else Evidence(None, "unknown", why)


def _from_trainer_state(source: Source) -> Evidence | None:
    content = _content(source, STATE)
    written = next((content[key] for key in ("optimizer", "optim") if isinstance(content.get(key), str)), "")
    return _stated(canonical_name(written), f"{STATE} says {plain(written, LINE)}")


def _from_card(source: Source) -> Evidence | None:
    matches = (_CARD_LINE.match(line) for line in source.card.splitlines())
    lines = [match[1][:200].strip(" `*_|") for match in matches if match]
    said = {canonical_name(line): line for line in lines}
    if not said:
        said = {canonical_name(word): word for word in _CARD_TEXT.findall(source.card) if canonical_name(word)}
    if len(said) != 1:
        return None
    optimizer, line = said.popitem()
    return _stated(optimizer, f'the model card says "{plain(line, LINE)}"')
