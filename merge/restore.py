"""Restored singular values: averaging shrinks them where the singular vectors of two models differ."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..align.symmetry import Family, State
from ..eval.spectrum import NULL


def restore_spectrum(
    state: Mapping[str, Tensor], a: Mapping[str, Tensor], b: Mapping[str, Tensor], t: float, table: Family
) -> State:
    """The state with singular values σ_i = σ_i(A)^(1−t) σ_i(B)^t in every matrix, and its own singular vectors.

    That is the point at `t` between the endpoints' log-spectra. `a`, `b` and `state` are in the same form, that of
    `table`; singular values that are zero to rounding in any of them stay as they are. In float64; the result has the
    dtype of `state`.
    """
    pieces = {name: piece.clone() for name, piece in table.split(state).items()}
    for name in table.matrices:
        left, values, right = torch.linalg.svd(pieces[name].double(), full_matrices=False)
        ends = [torch.linalg.svdvals(table.piece(end, name).double()) for end in (a, b)]
        real = torch.stack([x > NULL * x[0] for x in (values, *ends)]).all(0)
        logs = [end.clamp_min(torch.finfo(torch.float64).tiny).log() for end in ends]
        values = torch.where(real, torch.lerp(logs[0], logs[1], t).exp(), values)
        pieces[name] = ((left * values) @ right).to(pieces[name].dtype)
    return table.join(pieces)
