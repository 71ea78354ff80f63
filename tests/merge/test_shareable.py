"""What processes that share every model refuse, before they read one."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import EMBEDDED
from merging import merge

from isthmus.checkpoint.errors import BadInput

A, B, C = (str(EMBEDDED / name) for name in ("adamw-1", "muon-1", "adamw-2"))


@pytest.mark.parametrize(
    ("models", "options", "what"),
    [
        ((A, B, C), {"align": "orthogonal"}, "an operator"),
        ((A, B), {"align": "combined"}, "--align combined"),
        ((A, B), {"align": "learned"}, "--align learned"),
        ((A, B), {"budget": 1.5}, "--budget"),
        ((A, B), {"refit": True}, "--refit"),
        ((A, B), {"restore": True}, "--restore-spectrum"),
    ],
)
def test_what_needs_whole_models_in_each_process(
    models: tuple[str, ...], options: dict[str, Any], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(BadInput, match=rf"{what} needs every model whole .* launch it without, or join two models"):
        merge(*models, data=("stdlib:docs:heldout",), tokens=256, **options)
