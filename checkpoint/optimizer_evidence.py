"""Which optimizer trained a checkpoint, by what its files say. Nothing in them is executed.

The files in the order of trust: the optimizer's own state (`optimizer.pt`), the trainer's arguments
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

from .errors import CorruptCheckpoint
from .manifest import REPORT
from .pickles import DIRECTORY, PICKLE, Budget, require_archive, strings
from .size_limits import DOCUMENT
from .source import CARD, Source
from .untrusted_text import plain

Confidence = Literal["stated", "likely", "unknown"]

STATES = ("optimizer.pt", "optimizer.bin")
ARGUMENTS, STATE, RECIPE = "training_args.bin", "trainer_state.json", "recipe.json"
DOCUMENTS = (ARGUMENTS, RECIPE, REPORT, STATE, CARD)
SMALL = DOCUMENT
WORD, LINE, NAMED = 40, 60, 10  # characters of untrusted text, and endpoints, that a sentence quotes
# Matched line by line: over the whole card the pattern would scan blank lines again and again.
_CARD_LINE = re.compile(r"[\s>*_|-]{0,40}optimi[sz]er[\s*_]{0,40}[:=|][\s*_`]{0,40}(?:use\s{1,9})?(.*)", re.IGNORECASE)
_FACTORED = ("exp_avg_sq_row", "exp_avg_sq_col", "row_var", "col_var")
_MOMENTS = ("exp_avg", "exp_avg_sq", "exp_inf", "exp_avg_var", "mu_product")
_KEYS = frozenset((*_FACTORED, *_MOMENTS, "ns_steps", "ns_coefficients", "momentum_buffer", "dampening"))
_CARD_TEXT = re.compile(
    r"\b(?:pre-?)?train(?:ed|ing)\s{1,9}(?:with|using|by)\s{1,9}(?:the\s{1,9})?(\w{1,40})", re.IGNORECASE
)
# The names that libraries give to optimizers whose weights look alike.
_ALIASES = {
    "adamw": (
        "adam", "adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused", "adamw_apex_fused",
        "adamw_hf", "adamw_anyprecision", "adamw_torch_4bit", "adamw_torch_8bit", "adamw_bnb_8bit", "adamw_8bit",
        "paged_adamw", "paged_adamw_32bit", "paged_adamw_8bit",
    ),
    "lion": ("lion_8bit", "lion_32bit", "paged_lion_8bit", "paged_lion_32bit"),
}  # fmt: skip
ALIASES = {alias: optimizer for optimizer, aliases in _ALIASES.items() for alias in aliases}
_NAMES = ("adamw", "adam", "muon", "lion", "sgd", "adafactor", "shampoo", "soap", "sophia", "lamb")
# The packages of the classes in a trainer's arguments; `_Inert` replaces them, and they are never imported.
TRAINERS = ("transformers", "accelerate", "trl", "peft", "torch", "sentence_transformers", "datasets")


@dataclass(frozen=True)
class Evidence:
    """What one file or measurement says: an optimizer in lower case, or None; how sure that is; why, for people."""

    optimizer: str | None
    confidence: Confidence
    why: str


def file_evidence(source: Source) -> list[Evidence]:
    """What the files of a model say about its optimizer, the most trusted first. Only small files are downloaded.

    Raises CorruptCheckpoint for a `training_args.bin` that holds code.
    """
    evidence = [_from_state(source, name) for name in STATES if name in source.files]
    readers: dict[str, Callable[[Source], Evidence | None]] = {
        ARGUMENTS: _from_arguments,
        RECIPE: _from_recipe,
        REPORT: _from_report,
        STATE: _from_trainer_state,
        CARD: _from_card,
    }
    small = (name for name in readers if name in source.files and (source.files[name].size or 0) <= SMALL)
    evidence += [readers[name](source) for name in small]
    return [statement for statement in evidence if statement is not None]


def conclude(statements: Sequence[Evidence], spectrum: Evidence | None = None) -> Evidence:
    """The optimizer on which the files and, if it was measured, the spectrum agree; or why it is unknown."""
    named = [statement for statement in statements if statement.optimizer is not None]
    if not named:
        unknown = Evidence(None, "unknown", "no file says, and no spectrum was measured")
        return spectrum or (statements[0] if statements else unknown)
    first = named[0]
    others = [*named[1:], *([spectrum] if spectrum and spectrum.optimizer else [])]
    contradictions = [statement for statement in others if statement.optimizer != first.optimizer]
    if contradictions:
        return Evidence(None, "unknown", f"{first.why}, but {contradictions[0].why}")
    return first


def relation(optimizers: Sequence[str | None]) -> Literal["same-optimizer", "cross-optimizer", "unknown"]:
    """Whether models were trained by the same optimizer."""
    if None in optimizers:
        return "unknown"
    return "same-optimizer" if len(set(optimizers)) == 1 else "cross-optimizer"


def canonical_name(written: str) -> str | None:
    """The optimizer in a text, such as ``adamw`` for Adam and its variants; None if the text names none or several."""
    words = re.findall(r"[a-z0-9_]+", written[:200].lower().replace("optimizernames.", ""))
    if words and words[0] in ALIASES:
        return ALIASES[words[0]]
    optimizers = {ALIASES.get(name, name) for name in _NAMES if name in words}
    return optimizers.pop() if len(optimizers) == 1 else None


class _Inert:
    """Replaces every class in a trainer's arguments: it stores what it is given, and does nothing."""

    values: tuple[object, ...] = ()

    def __init__(self, *values: object):
        self.values = values

    def __setstate__(self, state: object) -> None:
        self.state = state


def _content(source: Source, filename: str) -> dict[str, Any]:
    """A JSON file beside the model; empty if it is damaged, for a merge does not need it."""
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


def read_training_arguments(path: Path, model: str) -> dict[str, Any]:
    """The arguments by name, read by torch's weights-only loader with `_Inert` in place of every class.

    Empty if the file cannot be read. Raises CorruptCheckpoint if it needs anything but the classes of a trainer.
    """
    try:
        if path.stat().st_size > DOCUMENT or not zipfile.is_zipfile(path):
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
    except Exception:  # torch raises many kinds of errors for a damaged or foreign file
        return {}
    state = content if isinstance(content, dict) else getattr(content, "state", {})
    arguments = state.items() if isinstance(state, dict) else ()
    return {key: value.values[0] if isinstance(value, _Inert) and value.values else value for key, value in arguments}


def _from_state(source: Source, filename: str) -> Evidence | None:
    """The optimizer by the keys of its state per weight, read from the text of the pickle without running it."""
    try:
        with source.open(filename) as file, zipfile.ZipFile(Budget(file, DIRECTORY + PICKLE)) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                return None  # torch never compresses; here a few bytes may stand for gigabytes of zeros
            entry = next(e for e in members if e.filename.endswith("data.pkl") and e.file_size <= PICKLE)
            keys = {text for text in strings(archive.read(entry)) if text in _KEYS}
    except (StopIteration, ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return None  # not an archive of torch, or a damaged one
    optimizer = optimizer_by_keys(keys)
    listed = ", ".join(sorted(keys & {"exp_avg", "exp_avg_sq", "momentum_buffer", "ns_steps"}))
    return _stated(optimizer, f"{filename} holds {listed or 'its row and column statistics'}")


def optimizer_by_keys(keys: set[str]) -> str | None:
    """The optimizer whose state has these keys: AdamW has two moments, Lion one, SGD and Muon a momentum."""
    if keys & {"ns_steps", "ns_coefficients"}:
        return "muon"
    if keys.intersection(_FACTORED):
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
    is_recipe = isinstance(written, str) and {"adamw_lr", "muon_lr", "steps"} <= content.keys()
    return _stated(canonical_name(str(written)), f"{RECIPE} says {plain(written, LINE)}") if is_recipe else None


def _from_report(source: Source) -> Evidence | None:
    """A merge has the optimizer of its endpoints if they share one; its own spectrum would not show which."""
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
    quotes = {canonical_name(line): line for line in lines}
    if not quotes:
        quotes = {canonical_name(word): word for word in _CARD_TEXT.findall(source.card) if canonical_name(word)}
    if len(quotes) != 1:
        return None
    optimizer, line = quotes.popitem()
    return _stated(optimizer, f'the model card says "{plain(line, LINE)}"')
