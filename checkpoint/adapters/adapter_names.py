"""The names of tensors in an adapter's file, and in the model."""

from __future__ import annotations

import re

# The model inside that of peft, and the copies and wrappers of peft.
_AROUND = re.compile(r"^base_model\.model\.|(?<=\.)(?:modules_to_save|original_module|base_layer|default)\.")


def plain_name(name: str) -> str:
    """A tensor of the model by its name in an adapter's file: ``base_model.model.lm_head.weight`` → lm_head.weight."""
    return _AROUND.sub("", name)
