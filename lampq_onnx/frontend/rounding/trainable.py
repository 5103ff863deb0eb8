"""A quantized layer whose scales, bias and rounding have gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from lampq_onnx.frontend.rounding.fake_quantize import fake_quantize
from lampq_onnx.frontend.rounding.ladder import Rounding
from lampq_onnx.frontend.shared.products import linear
from lampq_onnx.quantization import ActivationQuantizer, QuantizedWeight
from lampq_onnx.quantization.fitting import float16_scales

RoundingKind = Literal["straight-through", "adaround"]

STRETCH = (-0.1, 1.1)
"""zeta and gamma of the rectified sigmoid (AdaRound, Nagel et al., ICML 2020, equation 23)."""

LEVEL_MARGIN = 0.49
"""Largest initial distance of a real weight from its level, in steps; below 0.5, so that no code changes before
training.
"""


@dataclass(frozen=True)
class Trained:
    """The result of training one layer.

    Attributes:
        weight: integers, scales and bias.
        input: quantizer of the input, or None.
        latent: float32 (outputs, inputs), real weights whose nearest rounding is ``weight``.
    """

    weight: QuantizedWeight
    input: ActivationQuantizer | None
    latent: torch.Tensor


class TrainableLayer(torch.nn.Module):
    """Computes one layer of the quantized model, and trains it towards integers that stay on the grid.

    Levels are numbers n of steps: n * scale (mid-tread) or (2 n + 1) * scale (mid-rise), -2^(b-1) <= n < 2^(b-1). Rows
    may differ in their width b.

    Args:
        module: the float layer; only its kind of product is used.
        rounding: rounding to start from.
        bias: float32 (outputs,) of the float layer, or None.
        quantizer: quantizer of the input, or None.
        kind: "straight-through": real weights, rounded in the forward pass, with gradients as if they were not rounded.
            "adaround": each weight learns which of the two levels around it to take.
        drop: fraction of the input's elements that stay in float in training (QDrop, Wei et al., ICLR 2022).
        generator: random generator of the drops.
    """

    def __init__(
        self,
        module: torch.nn.Linear | torch.nn.Conv2d,
        rounding: Rounding,
        bias: torch.Tensor | None,
        quantizer: ActivationQuantizer | None,
        *,
        kind: RoundingKind = "straight-through",
        drop: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        weight = rounding.weight
        device = module.weight.device
        self._module = [module]  # in a list, so that its parameters do not become parameters of this module
        self._kind, self._drop = kind, drop
        self._start = weight
        self._generator = generator
        self._half = _per_row(2.0 ** (weight.row_bits().astype(np.float32) - 1), device)
        rises = weight.row_rises().astype(np.float32)
        self._rise = _per_row(rises, device)
        self._step = _per_row(1 + rises, device)
        scale = torch.from_numpy(weight.scale).to(device).reshape(len(weight.scale), -1)
        self.register_buffer("scale", scale)
        numbers = torch.from_numpy(weight.codes.astype(np.float32)).to(device) - self._half
        assert rounding.latent is not None
        real = rounding.latent.to(device) / (self._spread(scale) * self._step) - 0.5 * self._rise
        real = numbers + (real - numbers).clamp(-LEVEL_MARGIN, LEVEL_MARGIN)
        self.log_scale = torch.nn.Parameter(torch.zeros_like(scale))
        if kind == "adaround":
            self.register_buffer("floor", torch.floor(real))
            share = ((real - torch.floor(real)) - STRETCH[0]) / (STRETCH[1] - STRETCH[0])
            self.real = torch.nn.Parameter(torch.logit(share.clamp(1e-3, 1 - 1e-3)))
        else:
            self.real = torch.nn.Parameter(real)
        start = None if weight.bias is None else torch.from_numpy(weight.bias).to(device)
        start = bias if start is None else start
        self.bias = None if start is None else torch.nn.Parameter(start.detach().clone().float())
        self._quantizer = quantizer
        if quantizer is not None:
            self.log_input_scale = torch.nn.Parameter(torch.zeros((), device=device))
            self.zero = torch.nn.Parameter(torch.tensor(float(quantizer.zero_point), device=device))

    def shares(self) -> torch.Tensor:
        """For "adaround": position of each weight between its lower and upper level, 0..1."""
        return (torch.sigmoid(self.real) * (STRETCH[1] - STRETCH[0]) + STRETCH[0]).clamp(0, 1)

    def numbers(self, *, hard: bool = False) -> torch.Tensor:
        """Level numbers n, float32 (outputs, inputs); integers except for "adaround" in training."""
        if self._kind == "adaround":
            share = self.shares()
            share = (share >= 0.5).to(share) if hard or not self.training else share
            return self._clamp(self._buffer("floor") + share)
        return _round(self._clamp(self.real))

    def _clamp(self, numbers: torch.Tensor) -> torch.Tensor:
        """Level numbers limited to those that the widths have."""
        return numbers.clamp(-self._half, self._half - 1)  # type: ignore[arg-type]  # both are numbers or both tensors

    def matrix(self) -> torch.Tensor:
        """The dequantized weights, float32 (outputs, inputs)."""
        numbers = self.numbers()
        if isinstance(self._step, torch.Tensor) or self._step != 1:
            numbers = numbers * self._step + self._rise
        return numbers * self._spread(self._buffer("scale") * self.log_scale.exp())

    def _spread(self, scale: torch.Tensor) -> torch.Tensor:
        """The scale of each weight; one column where rows have one scale."""
        block = self._start.block
        if block is None:
            return scale
        return scale.repeat_interleave(block, 1)[:, : self._start.codes.shape[1]]

    def quantize_input(self, values: torch.Tensor) -> torch.Tensor:
        """Quantize-dequantize the input, with gradients for scale and zero point."""
        if self._quantizer is None:
            return values
        scale = self._quantizer.scale * self.log_input_scale.exp()
        dropped = None
        if self.training and self._drop > 0:
            dropped = torch.rand(values.shape, generator=self._generator, device=values.device) < self._drop
        return fake_quantize(values, scale, self.zero, self._quantizer.bits, dropped)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Compute the layer's output."""
        module = self._module[0]
        seen = self.quantize_input(values)
        if isinstance(module, torch.nn.Conv2d):
            if _is_linear_of_patches(module, seen):
                height, width = module.kernel_size
                rows, columns = seen.shape[2] // height, seen.shape[3] // width
                parts = seen.reshape(len(seen), -1, rows, height, columns, width)
                tokens = parts.permute(0, 2, 4, 1, 3, 5)  # (n, rows, columns, channels, height, width)
                return linear(tokens.flatten(3), self.matrix(), self.bias).permute(0, 3, 1, 2)
            matrix = self.matrix().reshape(module.weight.shape)
            # _conv_forward applies the module's own stride, padding and padding mode.
            convolved: torch.Tensor = module._conv_forward(seen, matrix, self.bias)
            return convolved
        return linear(seen, self.matrix(), self.bias)

    @torch.no_grad()
    def result(self) -> Trained:
        """Integers, scales and bias as they go into the file."""
        numbers = self.numbers(hard=True)
        scale = (self._buffer("scale") * self.log_scale.exp()).float()
        found = scale.cpu().numpy()
        weight = replace(
            self._start,
            codes=(numbers + self._half).round().to(torch.uint8).cpu().numpy(),
            scale=found[:, 0] if self._start.block is None else float16_scales(found),
            bias=None if self.bias is None else self.bias.detach().float().cpu().numpy(),
        )
        real = numbers if self._kind == "adaround" else self._clamp(self.real)
        latent = (real + 0.5 * self._rise) * self._step * self._spread(scale)
        return Trained(weight, self._trained_quantizer(), latent.detach().clone())

    def _trained_quantizer(self) -> ActivationQuantizer | None:
        if self._quantizer is None:
            return None
        top = 2**self._quantizer.bits - 1
        return ActivationQuantizer(
            scale=float(np.float32(self._quantizer.scale * float(self.log_input_scale.exp()))),
            zero_point=int(self.zero.clamp(0, top).round()),
            bits=self._quantizer.bits,
        )

    def _buffer(self, name: str) -> torch.Tensor:
        value = self._buffers[name]
        assert value is not None
        return value


def _per_row(values: npt.NDArray[np.float32], device: torch.device) -> float | torch.Tensor:
    """One number if all rows have the same, else float32 (outputs, 1)."""
    first = float(values[0])
    return first if bool((values == first).all()) else torch.from_numpy(values).to(device)[:, None]


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, values: torch.Tensor) -> torch.Tensor:
        return torch.round(values)

    @staticmethod
    def backward(_: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0]


def _round(values: torch.Tensor) -> torch.Tensor:
    """Nearest integers, with the gradient of the identity."""
    found: torch.Tensor = _Round.apply(values)
    return found


def _is_linear_of_patches(module: torch.nn.Conv2d, values: torch.Tensor) -> bool:
    """Whether a convolution is a product of patches that neither overlap nor leave gaps, as in a patch embedding."""
    return (
        module.kernel_size == module.stride
        and all(side % part == 0 for side, part in zip(values.shape[2:], module.kernel_size, strict=True))
        and module.groups == 1
        and tuple(module.dilation) == (1, 1)
        and not any(module._reversed_padding_repeated_twice)
    )
