"""Muon, with its Newton–Schulz iteration in the precision of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Muon):
    """torch's Muon (Jordan et al. 2024), orthogonalised in float32 where parameters are float32.

    torch takes the step of every matrix in bfloat16, whatever is trained: three digits, and on a processor without
    bfloat16 several times the time of everything else. Options are those of torch's; `adjust_lr_fn` is its default, the
    step of a matrix with m outputs and n < m inputs times √(m / n). The parameters of a group are (outputs, inputs), as
    Linear stores them, or (inputs, outputs), as Conv1D does, in a group with `transposed`. Those of a group with
    `stacked` (axis, count) are so many matrices side by side along the axis, each of which has a step of its own.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    update = self._momentum(matrix, matrix.grad, group["momentum"], group["nesterov"])
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    self.move(matrix, update, group)
        return loss

    def move(self, matrix: Tensor, update: Tensor, group: Mapping[str, Any]) -> None:
        """Take the step of a matrix, of an update that is not orthogonal yet."""
        for part, its_update in zip(_apart(matrix, group), _apart(update, group), strict=True):
            step = orthogonalised(its_update, group["ns_coefficients"], group["ns_steps"], group["eps"])
            outputs, inputs = part.T.shape if group.get("transposed") else part.shape
            part.add_(step, alpha=-group["lr"] * max(1.0, outputs / inputs) ** 0.5)

    def _momentum(self, matrix: Tensor, gradient: Tensor, momentum: float, nesterov: bool) -> Tensor:
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer: Tensor = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(buffer, momentum) if nesterov else buffer


def _apart(matrix: Tensor, group: Mapping[str, Any]) -> Sequence[Tensor]:
    if "stacked" not in group:
        return (matrix,)
    axis, count = group["stacked"]
    return matrix.chunk(count, dim=axis)


def orthogonalised(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Newton–Schulz: U φ(S) Vᵀ of a matrix U S Vᵀ scaled to norm 1, φ being `steps` times x → a x + b x³ + c x⁵.

    (m, n) → (m, n); in the matrix's precision.
    """
    a, b, c = coefficients
    wide: Tensor = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    factor = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = factor @ factor.T
        factor = torch.addmm(factor, torch.addmm(gram, gram, gram, beta=b, alpha=c), factor, beta=a)
    turned: Tensor = factor.T if matrix.shape[0] > matrix.shape[1] else factor
    return turned
