"""Replace biases by those that a rounding method computed."""

from __future__ import annotations

import onnx_ir as ir

from lampq_onnx.converter.passes.base import LayerPass
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.bias import bias_of, shares_addend
from lampq_onnx.graph.edits import add_constant, take_over
from lampq_onnx.graph.parameters import LayerParameters


class ReplaceBias(LayerPass[LayerParameters]):
    """Give a layer the bias that belongs to its rounded weights, if there is one.

    1. The bias is a new initializer: exporters merge equal constants, and other layers may use the old one.
    2. A MatMul takes it in the Add that follows it, a Gemm or Conv as its third input; a Gemm's beta becomes 1.
    3. A layer without a bias gets a new Add or a new third input.
    """

    def apply(self, model: ir.Model) -> int:
        """Run the pass as the class describes."""
        count = 0
        for name, node in self.layers(model):
            bias = self.parameters[name].weight.bias
            if bias is None:
                continue
            value = add_constant(model.graph, f"{name}.rounding.bias", bias)
            if node.op_type == "MatMul":
                _set_added(model.graph, name, node, value, bias.size)
            else:
                _set_third_input(name, node, value, bias.size)
            count += 1
        return count


def _set_third_input(name: str, node: ir.Node, value: ir.Value, outputs: int) -> None:
    if len(node.inputs) > 2 and node.inputs[2] is not None and bias_of(node, outputs) is None:
        raise _unclear(name)
    node.resize_inputs(3)
    node.replace_input_with(2, value)
    node.attributes.pop("beta", None)  # 1 is the default


def _set_added(graph: ir.Graph, name: str, node: ir.Node, value: ir.Value, outputs: int) -> None:
    product = node.outputs[0]
    old = bias_of(node, outputs)
    if old is not None:
        old.node.replace_input_with(old.position, value)
    elif shares_addend(node, outputs):
        raise _unclear(name)
    else:
        add = ir.node("Add", [product, value], name=f"{name}.add")
        graph.insert_after(node, add)
        take_over(product, add.outputs[0])
        add.replace_input_with(0, product)  # take_over redirected this reader as well


def _unclear(name: str) -> LampqError:
    return LampqError(
        f"the rounding of layer {name} changes its bias, but the graph has not one constant number per output that "
        "only this layer's result is added to",
        hint="round this layer to nearest: leave it out of the weights file, or plan it with another width",
    )
