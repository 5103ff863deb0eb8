"""Insert QuantizeLinear and DequantizeLinear at the inputs of the planned layers."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from lampq_onnx.converter.passes.base import INTEGER_KERNEL_BITS, LayerPass
from lampq_onnx.graph.edits import add_constant
from lampq_onnx.graph.parameters import LayerParameters, Parameters
from lampq_onnx.quantization import ActivationQuantizer

UINT16_OPSET = 21
"""First opset whose QuantizeLinear writes uint16."""

FLOAT8_OPSET = 19
"""First opset whose QuantizeLinear writes float8."""


class QuantizeActivations(LayerPass[LayerParameters]):
    """Quantize the input of each layer.

    1. 8 bits: QuantizeLinear to uint8, DequantizeLinear. 16 bits: the same to uint16. Float8: the same to float8.
    2. Fewer than 8 bits: a Clip to the representable interval first, then uint8. The levels that remain are exactly
       those of the narrow type, and the layer keeps its 8-bit kernel.
    3. Layers without a quantizer read the float input.
    4. Layers that read the same tensor with the same scale and zero point share one pair.
    5. Reshapes and transposes stay before QuantizeLinear. Behind it they would move bytes, which wins no time in
       onnxruntime, costs 6 % in OpenVINO, does not load in QNN, and is computed wrongly by MNN.

    Args:
        parameters: layer -> its quantization parameters.
        signed: write int8 or int16 instead of uint8 or uint16, with zero points lower by half of the levels:
            the values are the same.
    """

    def __init__(self, parameters: Parameters, *, signed: bool = False) -> None:
        super().__init__(parameters)
        self._signed = signed

    def apply(self, model: ir.Model) -> int:
        """Run the pass as the class describes."""
        shared: dict[tuple[ir.Value, ActivationQuantizer], ir.Value] = {}
        for name, node in self.layers(model):
            source = node.inputs[0]
            quantizer = self.parameters[name].activation
            if quantizer is None:
                continue
            assert source is not None
            key = (source, quantizer)
            if key not in shared:
                shared[key] = self._pair(model.graph, name, node, source, quantizer)
            node.replace_input_with(0, shared[key])
        return len(shared)

    def _pair(
        self, graph: ir.Graph, name: str, node: ir.Node, source: ir.Value, quantizer: ActivationQuantizer
    ) -> ir.Value:
        nodes: list[ir.Node] = []
        value = source
        prefix = f"{name}.input"
        if quantizer.bits < INTEGER_KERNEL_BITS:
            low = add_constant(graph, f"{prefix}.low", np.float32(quantizer.low))
            high = add_constant(graph, f"{prefix}.high", np.float32(quantizer.high))
            nodes.append(ir.node("Clip", [value, low, high], name=f"{prefix}.clip"))
            value = nodes[-1].outputs[0]
        scale = add_constant(graph, f"{prefix}.scale", np.float32(quantizer.scale))
        zero = add_constant(graph, f"{prefix}.zero_point", zero_point_of(quantizer, signed=self._signed))
        nodes.append(ir.node("QuantizeLinear", [value, scale, zero], name=f"{prefix}.quantize"))
        nodes.append(ir.node("DequantizeLinear", [nodes[-1].outputs[0], scale, zero], name=f"{prefix}.dequantize"))
        graph.insert_before(node, nodes)
        return nodes[-1].outputs[0]


def required_opset(quantizer: ActivationQuantizer | None) -> int:
    """Return the lowest opset that the quantizer needs; 0: any."""
    if quantizer is not None and quantizer.float8:
        return FLOAT8_OPSET
    return UINT16_OPSET if quantizer is not None and quantizer.bits > INTEGER_KERNEL_BITS else 0


def zero_point_of(quantizer: ActivationQuantizer, *, signed: bool) -> np.generic:
    """Return the zero point in the type of the levels: uint8 or uint16, int8 or int16, or float8."""
    if quantizer.float8:
        return np.zeros(1, ml_dtypes.float8_e4m3fn)[0]  # type: ignore[no-any-return]  # a type that NumPy does not know
    wide = quantizer.bits > INTEGER_KERNEL_BITS
    if not signed:
        return (np.uint16 if wide else np.uint8)(quantizer.zero_point)
    return (np.int16 if wide else np.int8)(quantizer.zero_point - 2 ** (quantizer.bits - 1))
