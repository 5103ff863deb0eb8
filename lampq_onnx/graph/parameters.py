"""The numbers that a layer is quantized with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lampq_onnx.artifacts.plan import FLOAT_BITS
from lampq_onnx.quantization import ActivationQuantizer, QuantizedWeight


@dataclass(frozen=True)
class LayerParameters:
    """Numbers that one layer is quantized with.

    Attributes:
        weight: integers, scales and, where the rounding brings one, the bias.
        activation: None leaves the input in float.
    """

    weight: QuantizedWeight
    activation: ActivationQuantizer | None

    @property
    def facts(self) -> LayerFacts:
        """What passes over the quantized graph need to know."""
        outputs, inputs = self.weight.codes.shape
        if self.activation is None:
            return LayerFacts(outputs, inputs, FLOAT_BITS, None)
        return LayerFacts(outputs, inputs, self.activation.bits, self.activation.scale)


@dataclass(frozen=True)
class LayerFacts:
    """Sizes of one layer, and the form of its input.

    Attributes:
        outputs, inputs: channels of the weight.
        input_bits: 32 is float.
        input_scale: None: the input is not quantized.
    """

    outputs: int
    inputs: int
    input_bits: int
    input_scale: float | None


Parameters = Mapping[str, LayerParameters]
"""Unit name -> numbers."""
