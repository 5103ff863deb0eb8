"""Insert QuantizeLinear and DequantizeLinear behind the products of the planned layers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lampq_onnx.converter.passes.base import LayerPass
from lampq_onnx.converter.passes.quantize_activations import zero_point_of
from lampq_onnx.graph.edits import add_constant, take_over
from lampq_onnx.graph.parameters import LayerParameters, Parameters
from lampq_onnx.graph.refusals import Refused


class QuantizeProducts(LayerPass[LayerParameters]):
    """Quantize the result of each product, before the bias is added.

    1. MatMul -> QuantizeLinear -> DequantizeLinear -> Add of the bias. Some runtimes multiply integers only if the
       result is quantized as well, see `Target.output_ranges`.
    2. Layers without a quantizer for their product keep its result.

    Args:
        parameters: layer -> its quantization parameters.
        signed: see `QuantizeActivations`.
    """

    purpose = "quantized result of the product"

    def __init__(self, parameters: Parameters, *, signed: bool = False) -> None:
        super().__init__(parameters)
        self._signed = signed

    def apply(self, model: ir.Model) -> int:
        """Run the pass as the class describes."""
        count = 0
        for name, node in self.layers(model):
            quantizer = self.parameters[name].product
            if quantizer is None:
                continue
            if node.op_type != "MatMul":
                count += self.settle(name, Refused(f"the layer is a {node.op_type}, which adds its bias itself"))
                continue
            graph, prefix, product = model.graph, f"{name}.product", node.outputs[0]
            scale = add_constant(graph, f"{prefix}.scale", np.float32(quantizer.scale))
            zero = add_constant(graph, f"{prefix}.zero_point", zero_point_of(quantizer, signed=self._signed))
            raw = ir.Value(name=f"{prefix}.raw", type=product.type, shape=product.shape)
            quantize = ir.node("QuantizeLinear", [raw, scale, zero], name=f"{prefix}.quantize")
            pair = ir.node("DequantizeLinear", [quantize.outputs[0], scale, zero], name=f"{prefix}.dequantize")
            graph.insert_after(node, [quantize, pair])
            take_over(product, pair.outputs[0])
            quantize.replace_input_with(0, product)
            count += 1
        return count
