"""Limits on the steps of a tokenizer.json: how deep they are nested, how much longer they can make a text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import CorruptCheckpoint
from .size_limits import LARGEST, read_bytes, require_values

STEPS, NESTING, PIECES = 2_000, 16, 64
GROWTH, PADDING = 10_000, 2**20  # times longer than the text; tokens
PIPELINE = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def require_pipeline(content: Mapping[str, Any], where: str) -> None:
    """Check the steps of a parsed tokenizer.json, and how much they pad or lengthen a text.

    Raises CorruptCheckpoint for steps that are nested too deep, or that would fill the memory.
    """
    padding = content.get("padding")
    if isinstance(padding, Mapping):
        strategy = padding.get("strategy")
        fixed = strategy.get("Fixed") if isinstance(strategy, Mapping) else None
        if any(isinstance(n, int) and n > PADDING for n in (fixed, padding.get("pad_to_multiple_of"))):
            raise CorruptCheckpoint(f"{where} pads every text to more than {PADDING:,} tokens: do not trust this model")
    for part in PIPELINE:
        growth, steps = 1.0, 0
        todo: list[tuple[Any, int]] = [(content.get(part), 1)]
        while todo:
            step, depth = todo.pop()
            if not isinstance(step, (Mapping, list)):
                continue
            steps += 1
            if steps > STEPS or depth > NESTING or growth > GROWTH:
                raise CorruptCheckpoint(
                    f"the {part} of {where} has more steps, or makes a text longer, than that of any real tokenizer: "
                    "do not trust this model"
                )
            if isinstance(step, Mapping):
                growth *= _growth(step)
            inner = step.values() if isinstance(step, Mapping) else step
            todo += [(entry, depth + 1) for entry in inner]
        if growth > GROWTH:
            raise CorruptCheckpoint(
                f"the {part} of {where} makes a text up to {growth:.0e} times longer: do not trust this model"
            )


def require_tokenizer_file(path: Path, where: str) -> None:
    """Apply `require_pipeline` to a tokenizer.json. If it is not JSON, the library that loads it reports that."""
    try:
        content = json.loads(require_values(read_bytes(path, LARGEST["tokenizer.json"], where), where))
    except (ValueError, RecursionError):
        return
    if isinstance(content, Mapping):
        require_pipeline(content, where)


def _growth(step: Mapping[str, Any]) -> float:
    """The factor by which one step can lengthen a text."""
    kind = step.get("type")
    if kind == "TemplateProcessing":
        pieces = (step.get(side) for side in ("single", "pair"))
        return GROWTH + 1.0 if any(isinstance(p, list) and len(p) > PIECES for p in pieces) else 1.0
    if kind == "Prepend":
        return 1.0 + len(str(step.get("prepend") or "")) / 2
    if kind != "Replace":
        return 1.0
    pattern, content = step.get("pattern"), str(step.get("content") or "")
    literal = pattern.get("String") if isinstance(pattern, Mapping) else None
    if isinstance(literal, str):
        return max(1.0, len(content) / max(1, len(literal)))
    return 1.0 + len(content)  # a regular expression may match nothing, everywhere
