"""The chat template of a merge: the one that most of its models have, or another."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .loading import Checkpoint
from .opening import open_source
from .saving import write_json
from .small_files import TEMPLATE, TOKENIZER_SETTINGS, is_template
from .strict_json import parse_object
from .tokenizer import chat_templates
from .working_folders import WorkingFolder


def most_common_template(models: Sequence[Checkpoint]) -> str | None:
    """The chat template that most of the models have, of several the first; None where none has any."""
    templates = [chat_templates(model.source or open_source(model.place)).get("default") for model in models]
    counts = Counter(template.strip() for template in templates if template and template.strip())
    return counts.most_common(1)[0][0] if counts else None


def with_template(model: Checkpoint, template: str) -> Checkpoint:
    """A model whose tokenizer has this chat template, and no other."""
    folder = WorkingFolder(Path(tempfile.gettempdir(), "isthmus-template-"))
    files = {name: folder.path / name for name in model.files if name != TEMPLATE and not is_template(name)}
    for name, path in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model.files[name].read_bytes())
    if TOKENIZER_SETTINGS in files:
        settings = parse_object(files[TOKENIZER_SETTINGS].read_bytes(), f"'{TOKENIZER_SETTINGS}' of '{model.name}'")
        write_json(files[TOKENIZER_SETTINGS], {key: value for key, value in settings.items() if key != "chat_template"})
    files[TEMPLATE] = folder.path / TEMPLATE
    files[TEMPLATE].write_text(template, encoding="utf-8")
    return replace(model, files=files, _copies=folder)
