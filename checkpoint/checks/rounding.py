"""What the numbers of two models tell of the dtypes that they have been through, on a sample of their weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .finding import Finding

NARROW = {"BF16": torch.bfloat16, "F16": torch.float16}


def rounding_findings(
    names: tuple[str, str],
    dtypes: tuple[Sequence[str], Sequence[str]],
    rows: Sequence[tuple[Tensor, Tensor]],
    file: str,
) -> list[Finding]:
    """Findings about two models: the one is the other, rounded; or stored wider than its numbers are.

    `dtypes` are those of their files, `rows` some rows of the same matrices of both, float32.
    """
    pairs = [(first, second) for first, second in rows if first.shape == second.shape and first.numel()]
    if not pairs:
        return []
    a, b = (torch.cat([pair[side].flatten() for pair in pairs]) for side in range(2))
    findings = []
    for (name, own), (other_name, other) in (((names[0], a), (names[1], b)), ((names[1], b), (names[0], a))):
        for kind, dtype in NARROW.items():
            rounded = own.to(dtype).float()
            if not torch.equal(own, rounded) and torch.equal(rounded, other):
                what = f"'{other_name}' is '{name}' rounded to {kind}: their difference is rounding alone"
                advice = f"take the one with more digits, '{name}', and what was trained from it"
                return [Finding("degrades", what, advice, file, "rounding")]
    for name, stored, own in zip(names, dtypes, (a, b), strict=True):
        narrow = next((kind for kind, dtype in NARROW.items() if torch.equal(own.to(dtype).float(), own)), None)
        if tuple(stored) == ("F32",) and narrow is not None and bool((own != 0).any()):
            what = f"'{name}' is stored in F32, and all its numbers, in a sample, are {narrow} ones"
            advice = "it was rounded before: differences from a base that are smaller than that are lost"
            findings.append(Finding("notes", what, advice, file))
    return findings
