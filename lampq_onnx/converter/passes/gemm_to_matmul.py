"""Replace Gemm by MatMul + Add, so that onnxruntime runs it on an integer kernel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lampq_onnx.converter.passes.base import LayerPass
from lampq_onnx.graph.bias import bias_of
from lampq_onnx.graph.edits import LIFTED, add_constant, move_annotation, take_over
from lampq_onnx.graph.nodes import constant_array, int_attribute
from lampq_onnx.graph.parameters import LayerParameters
from lampq_onnx.graph.shapes import dimensions


class GemmToMatMul(LayerPass[LayerParameters]):
    """Rewrite the Gemm of each layer.

    1. A Gemm is two-dimensional, and onnxruntime runs a Gemm (or the MatMul + Add that it turns into one) with a
       dequantized weight in float, dequantizing it at every run, unless its bias is int32 (see `BiasInGemm`). With
       three dimensions it stays a MatMul, which has an integer kernel.
    2. x [n, k] becomes Unsqueeze -> MatMul -> Add -> Squeeze; alpha and beta are folded into the constants.
    3. A MatMul that reads two dimensions is lifted in the same way, with the Add of its bias.
    """

    def apply(self, model: ir.Model) -> int:
        """Run the pass as the class describes."""
        count = 0
        for name, node in self.layers(model):
            if node.op_type == "Gemm":
                self._rewrite(model.graph, name, node)
            elif node.op_type == "MatMul" and len(dimensions(node.inputs[0]) or ()) == 2:
                _lift(model.graph, name, node)
            else:
                continue
            count += 1
        return count

    def _rewrite(self, graph: ir.Graph, name: str, node: ir.Node) -> None:
        source, weight = node.inputs[0], node.inputs[1]
        assert weight is not None
        alpha = node.attributes["alpha"].as_float() if "alpha" in node.attributes else 1.0
        beta = node.attributes["beta"].as_float() if "beta" in node.attributes else 1.0
        matrix, is_row = constant_array(weight), bias_of(node) is not None
        if int_attribute(node, "transB", 0):
            matrix = matrix.T
        # The values matter only for their shape: the weight pass replaces them by the planned integers.
        value = add_constant(graph, f"{name}.matrix", np.ascontiguousarray(matrix))
        axis = add_constant(graph, f"{name}.axis", np.array([1], np.int64))
        lift = ir.node("Unsqueeze", [source, axis], name=f"{name}.lift")
        product = ir.node("MatMul", [lift.outputs[0], value], name=name)
        move_annotation(node, product)
        nodes, last = [lift, product], product.outputs[0]
        if alpha != 1.0:
            factor = add_constant(graph, f"{name}.alpha", np.float32(alpha))
            nodes.append(ir.node("Mul", [last, factor], name=f"{name}.scale"))
            last = nodes[-1].outputs[0]
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None and beta != 1.0:
            if bias.const_value is not None:
                bias = add_constant(
                    graph, f"{name}.beta_bias", constant_array(bias).astype(np.float32) * np.float32(beta)
                )
            else:
                factor = add_constant(graph, f"{name}.beta", np.float32(beta))
                nodes.append(ir.node("Mul", [bias, factor], name=f"{name}.beta_bias"))
                bias = nodes[-1].outputs[0]
        drop = ir.node("Squeeze", [last, axis], name=f"{name}.drop")
        if bias is None:
            nodes.append(drop)
        elif is_row:
            add = ir.node("Add", [last, bias], name=f"{name}.add")
            drop.replace_input_with(0, add.outputs[0])
            nodes += [add, drop]
        else:  # one row per image, which would broadcast along the added dimension
            nodes += [drop, ir.node("Add", [drop.outputs[0], bias], name=f"{name}.add")]
        graph.insert_before(node, nodes)
        take_over(node.outputs[0], nodes[-1].outputs[0])
        graph.remove(node, safe=True)


def _lift(graph: ir.Graph, name: str, node: ir.Node) -> None:
    """Add a dimension to a two-dimensional MatMul and the Add of its bias."""
    last, bias = node.outputs[0], bias_of(node)
    if bias is not None:
        last = bias.node.outputs[0]
        node.outputs[0].name = f"{node.outputs[0].name}{LIFTED}"  # three dimensions, unlike in the float file
    axis = add_constant(graph, f"{name}.axis", np.array([1], np.int64))
    lift = ir.node("Unsqueeze", [node.inputs[0], axis], name=f"{name}.lift")
    graph.insert_before(node, lift)
    node.replace_input_with(0, lift.outputs[0])
    drop = ir.node("Squeeze", [last, axis], name=f"{name}.drop")
    producer = last.producer()
    assert producer is not None
    graph.insert_after(producer, drop)
    take_over(last, drop.outputs[0])
    drop.replace_input_with(0, last)  # take_over redirected this reader as well
    node.outputs[0].shape = last.shape = None  # three dimensions now; readers infer them
