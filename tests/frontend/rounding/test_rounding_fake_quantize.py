"""The fused quantize-dequantize against the same written out in tensor operations."""

from __future__ import annotations

import pytest
import torch

from lampq_onnx.frontend.rounding.fake_quantize import fake_quantize


def straight_through(values: torch.Tensor) -> torch.Tensor:
    return values + (values.round() - values).detach()


def clipped(values: torch.Tensor, top: int) -> torch.Tensor:
    """To 0..top; unlike torch.clamp's, gradients pass at the ends, where values that round to them are."""
    edge = torch.full_like(values.detach(), top)
    values = torch.where(values > edge, edge, values)
    return torch.where(values < 0, torch.zeros_like(edge), values)


def written_out(values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int) -> torch.Tensor:
    top = 2**bits - 1
    whole = straight_through(clipped(zero, top))
    return (clipped(straight_through(values / scale) + whole, top) - whole) * scale


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zero", [0.0, 1.3, 2.6, -0.4])
def test_values_and_gradients_are_those_of_the_plain_operations(bits: int, zero: float) -> None:
    generator = torch.Generator().manual_seed(bits)
    values = torch.randn(3, 50, 7, generator=generator)
    weights = torch.randn(values.shape, generator=generator)
    found: list[tuple[torch.Tensor, ...]] = []
    for operation in (fake_quantize, written_out):
        inputs = [t.clone().requires_grad_() for t in (values, torch.tensor(4.0 / 2**bits), torch.tensor(zero))]
        seen = operation(inputs[0], inputs[1], inputs[2], bits)
        (seen * weights).sum().backward()
        found.append((seen.detach(), *(t.grad for t in inputs if t.grad is not None)))
    assert len(found[0]) == len(found[1]) == 4
    for fused, plain in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-4)
    assert (found[0][1] == 0).any(), "some values are clipped"


def test_dropped_values_pass_and_leave_nothing_for_scale_and_zero_point() -> None:
    generator = torch.Generator().manual_seed(0)
    values, weights = torch.randn(2, 3, 50, 7, generator=generator)
    dropped = torch.rand(values.shape, generator=generator) < 0.4
    found: list[tuple[torch.Tensor, ...]] = []
    for fused in (True, False):
        inputs = [t.clone().requires_grad_() for t in (values, torch.tensor(0.25), torch.tensor(5.3))]
        if fused:
            seen = fake_quantize(inputs[0], inputs[1], inputs[2], 4, dropped)
        else:
            seen = torch.where(dropped, inputs[0], written_out(inputs[0], inputs[1], inputs[2], 4))
        (seen * weights).sum().backward()
        found.append((seen.detach(), *(t.grad for t in inputs if t.grad is not None)))
    for fused_value, plain in zip(*found, strict=True):
        torch.testing.assert_close(fused_value, plain, rtol=1e-4, atol=1e-4)
    assert torch.equal(found[0][0][dropped], values[dropped])
