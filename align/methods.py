"""The methods of alignment, and how they differ; light, for what only has to name them."""

from __future__ import annotations

from typing import Literal

Method = Literal["none", "permutation", "orthogonal", "activations", "combined", "learned"]
KEEP_FORM: frozenset[Method] = frozenset({"none", "permutation"})
LOOKING: frozenset[Method] = frozenset({"activations", "combined"})  # at what the models do with text
