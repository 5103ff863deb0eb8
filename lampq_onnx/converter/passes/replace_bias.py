"""Biases that a rounding brings along."""

from __future__ import annotations

import onnx_ir as ir

from lampq_onnx.converter.passes.base import LayerPass, add_constant, is_bias, take_over
from lampq_onnx.converter.sites import constant_array, users
from lampq_onnx.errors import LampqError


class ReplaceBias(LayerPass):
    """Give a unit the bias of its rounded weights, where they have one.

    1. The bias is a new initializer: exporters merge equal constants, and the old one may be another layer's, too.
    2. A MatMul takes it in the Add that follows it, a Gemm or Conv as its third input; a Gemm's beta becomes 1.
    3. A layer without a bias gets the Add or the input.
    """

    def apply(self, model: ir.Model) -> int:
        """See the class."""
        count = 0
        for name, node in self.units(model):
            bias = self.parameters[name].weight.bias
            if bias is None:
                continue
            value = add_constant(model.graph, f"{name}.rounding.bias", bias)
            if node.op_type == "MatMul":
                _set_added(model.graph, name, node, value)
            else:
                _set_third_input(name, node, value)
            count += 1
        return count


def _set_third_input(name: str, node: ir.Node, bias: ir.Value) -> None:
    old = node.inputs[2] if len(node.inputs) > 2 else None
    if old is not None and not is_bias(old, constant_array(bias).size):
        raise _unclear(name)
    node.resize_inputs(3)
    node.replace_input_with(2, bias)
    node.attributes.pop("beta", None)  # 1 is the default


def _set_added(graph: ir.Graph, name: str, node: ir.Node, bias: ir.Value) -> None:
    product = node.outputs[0]
    adds = [
        (reader, position)
        for reader in users(product)
        if reader.op_type == "Add"
        for position, operand in enumerate(reader.inputs)
        if operand is not None and operand is not product and is_bias(operand, constant_array(bias).size)
    ]
    if not adds:
        add = ir.node("Add", [product, bias], name=f"{name}.add")
        graph.insert_after(node, add)
        take_over(product, add.outputs[0])
        add.replace_input_with(0, product)  # take_over redirected this reader as well
    elif len(users(product)) == 1 and not product.is_graph_output():
        reader, position = adds[0]
        reader.replace_input_with(position, bias)
    else:
        raise _unclear(name)


def _unclear(name: str) -> LampqError:
    return LampqError(
        f"the rounding of layer {name} brings a bias, and the layer's own is not one constant number per output that "
        "only this layer's result is added to",
        hint="round this layer to nearest: leave it out of the weights file, or plan it with another width",
    )
