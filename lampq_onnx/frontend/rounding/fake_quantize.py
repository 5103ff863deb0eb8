"""Quantize-dequantize of inputs with gradients, as one autograd operation.

The same in plain tensor operations takes a third of a training step: each operation stores its result and passes over
the tensor again in the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, top: int) -> torch.Tensor:
        whole = zero.clamp(0, top).round()
        seen = (values / scale).round_().clamp_(-whole, top - whole).mul_(scale)
        ctx.save_for_backward(values, seen, scale, zero, whole)
        ctx.top = top
        return seen

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        values, seen, scale, zero, whole = ctx.saved_tensors
        gradient = gradients[0]
        # Values up to half a step beyond the last levels still round to them.
        inside = (values >= (-whole - 0.5) * scale) & (values <= (ctx.top - whole + 0.5) * scale)
        passed = gradient * inside
        of_scale = ((gradient * seen).sum() - (passed * values).sum()) / scale
        of_zero = scale * (passed.sum() - gradient.sum()) * ((zero >= 0) & (zero <= ctx.top))
        return passed, of_scale, of_zero, None


def fake_quantize(values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int) -> torch.Tensor:
    """Round ``values`` to their levels, with gradients as in LSQ+ (Bhalgat et al., CVPRW 2020).

    The gradient passes straight through inside the range and is zero outside. The scale and the zero point get
    gradients from the rounding and the clipping.

    Args:
        values: float32, any shape.
        scale: float32 (), positive.
        zero: float32 (), the zero point before it is rounded and clamped to 0..2^bits - 1.
        bits: bit-width.
    """
    found: torch.Tensor = _FakeQuantize.apply(values, scale, zero, 2**bits - 1)
    return found
