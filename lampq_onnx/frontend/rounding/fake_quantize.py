"""Quantize-dequantize of inputs with gradients, as one autograd operation.

The same in plain tensor operations takes a third of a training step: each operation stores its result and passes over
the tensor again in the backward pass. On a CPU the bounds are numbers, since its kernels for bounds in tensors are
slow; on a GPU they are tensors, since a CUDA graph cannot read them.
"""

from __future__ import annotations

from typing import Any

import torch


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: torch.Tensor,
        scale: torch.Tensor,
        zero: torch.Tensor,
        top: int,
        dropped: torch.Tensor | None,
    ) -> torch.Tensor:
        step, least, most = _bounds(scale, zero, top)
        seen = torch.div(values, step).round_().clamp_(least, most).mul_(step)
        if dropped is not None:
            seen = torch.where(dropped, values, seen)
        ctx.save_for_backward(values, seen, scale, zero, dropped)
        ctx.top = top
        return seen

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        values, seen, scale, zero, dropped = ctx.saved_tensors
        gradient = gradients[0] if dropped is None else gradients[0].masked_fill(dropped, 0)
        step, least, most = _bounds(scale, zero, ctx.top)
        # Values up to half a step beyond the last levels still round to them.
        passed = _between(gradient, values, (least - 0.5) * step, (most + 0.5) * step)
        of_scale = (_dot(gradient, seen) - _dot(passed, values)) / scale
        of_zero = scale * (passed.sum() - gradient.sum()) * ((zero >= 0) & (zero <= ctx.top))
        if dropped is not None:
            passed = torch.where(dropped, gradients[0], passed)
        return passed, of_scale, of_zero, None, None


def fake_quantize(
    values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int, dropped: torch.Tensor | None = None
) -> torch.Tensor:
    """Round ``values`` to their levels, with gradients as in LSQ+ (Bhalgat et al., CVPRW 2020).

    The gradient passes straight through inside the range and is zero outside. The scale and the zero point get
    gradients from the rounding and the clipping.

    Args:
        values: float32, any shape.
        scale: float32 (), positive.
        zero: float32 (), the zero point before it is rounded and clamped to 0..2^bits - 1.
        bits: bit-width.
        dropped: bool, shape of ``values``: those that stay as they are.
    """
    found: torch.Tensor = _FakeQuantize.apply(values, scale, zero, 2**bits - 1, dropped)
    return found


def _bounds(scale: torch.Tensor, zero: torch.Tensor, top: int) -> tuple[Any, Any, Any]:
    """Step, lowest and highest level: numbers on a CPU, tensors on a GPU."""
    whole = zero.clamp(0, top).round()
    if scale.is_cuda:
        return scale, -whole, top - whole
    return float(scale), -float(whole), top - float(whole)


def _between(gradient: torch.Tensor, values: torch.Tensor, low: Any, high: Any) -> torch.Tensor:
    """The gradient where values are between bounds, else 0."""
    if values.is_cuda:
        inside: torch.Tensor = (values >= low) & (values <= high)
        return gradient * inside
    found: torch.Tensor = torch.ops.aten.hardtanh_backward(gradient, values, low, high)
    return found


def _dot(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return torch.dot(left.flatten(), right.flatten())
