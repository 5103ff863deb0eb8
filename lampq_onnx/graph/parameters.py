"""The quantization parameters of a layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lampq_onnx.artifacts.plan import FLOAT_BITS
from lampq_onnx.quantization import ActivationQuantizer, QuantizedWeight


@dataclass(frozen=True)
class LayerParameters:
    """Quantization parameters of one layer.

    Attributes:
        weight: integers, scales and, if the rounding changes it, the bias.
        activation: quantizer of the input; None leaves it in float.
        product: quantizer of the product, before the bias; None leaves it as the kernel computes it.
    """

    weight: QuantizedWeight
    activation: ActivationQuantizer | None
    product: ActivationQuantizer | None = None

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
        outputs: output channels of the weight.
        inputs: input channels of the weight.
        input_bits: width of the input; 32 is float.
        input_scale: scale of the input; None: the input is not quantized.
    """

    outputs: int
    inputs: int
    input_bits: int
    input_scale: float | None


Parameters = Mapping[str, LayerParameters]
"""Layer name -> quantization parameters."""
