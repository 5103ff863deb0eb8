"""Replace the patch-embedding Conv by reshape, transpose and MatMul."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from lampq_onnx.converter.passes.base import LayerPass
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.edits import add_constant, move_annotation, take_over
from lampq_onnx.graph.nodes import constant_array, users
from lampq_onnx.graph.parameters import LayerFacts
from lampq_onnx.graph.patches import patch_geometry
from lampq_onnx.graph.refusals import Refused
from lampq_onnx.graph.shapes import dimensions


class PatchEmbedToMatMul(LayerPass[LayerFacts]):
    """Rewrite a Conv whose stride equals its kernel.

    1. onnxruntime has no integer kernel for a Conv with float output, but has one for MatMul.
    2. [n, c, h, w] -> Reshape [n, c, rows, kh, columns, kw] -> Transpose -> Reshape [n, rows * columns, c * kh * kw] ->
       MatMul -> Add. Reshape and Transpose stay before QuantizeLinear (see QuantizeActivations). Patches of one pixel
       need only Reshape [n, c, h * w] -> Transpose, and one image has no dimension n on the way: QNN moves at most five
       dimensions, and leaves more to the CPU.
    3. A Conv whose input stays in float stays a Conv, which float kernels run best, unless ``floats`` is set.
    4. If only the flattening of ViTs follows the Conv (Reshape to [n, d, tokens], Transpose to [n, tokens, d]), the new
       result replaces the flattened one; otherwise it is brought back to [n, d, rows, columns].

    Args:
        parameters: layer -> its sizes and input.
        floats: rewrite a Conv whose input stays in float as well: only a MatMul can read weights in blocks.
    """

    purpose = "patch embedding as a MatMul, which has an integer kernel"

    def __init__(self, parameters: Mapping[str, LayerFacts], *, floats: bool = False) -> None:
        super().__init__(parameters)
        self._floats = floats

    def apply(self, model: ir.Model) -> int:
        """Run the pass as the class describes."""
        count = 0
        for name, node in self.layers(model):
            if node.op_type != "Conv":
                continue
            if self.parameters[name].input_scale is None and not self._floats:
                self.settle(name, Refused("its input stays in float, and float kernels run the Conv best as it is"))
                continue
            geometry = patch_geometry(node)
            if geometry is None:
                raise LampqError(
                    f"layer {name} (Conv, node {node.name}) is not a patch embedding: its kernel and stride differ, it "
                    "is padded, or its input size is not fixed",
                    hint="set weight_bits and activation_bits of this layer to 32 in the plan to leave it in float",
                )
            self._rewrite(model.graph, name, node, geometry)
            count += 1
        return count

    def _rewrite(self, graph: ir.Graph, name: str, node: ir.Node, geometry: tuple[int, int, int, int, int]) -> None:
        channels, rows, columns, kh, kw = geometry
        weight = node.inputs[1]
        assert weight is not None
        matrix = constant_array(weight)
        outputs = matrix.shape[0]
        value = add_constant(graph, f"{name}.matrix", np.ascontiguousarray(matrix.reshape(outputs, -1).T))
        if kh == kw == 1:
            sizes, perm = [0, channels, rows * columns], [0, 2, 1]
        elif (dimensions(node.inputs[0]) or (0,))[0] == 1:
            sizes, perm = [channels, rows, kh, columns, kw], [1, 3, 0, 2, 4]
        else:
            sizes, perm = [0, channels, rows, kh, columns, kw], [0, 2, 4, 1, 3, 5]
        cells = add_constant(graph, f"{name}.cells", np.array(sizes, np.int64))
        cut = ir.node("Reshape", [node.inputs[0], cells], name=f"{name}.cut")
        nodes = [cut, ir.node("Transpose", [cut.outputs[0]], {"perm": perm}, name=f"{name}.gather")]
        if len(sizes) > 3:
            shape = [0 if len(sizes) > 5 else 1, rows * columns, channels * kh * kw]
            lines = add_constant(graph, f"{name}.patches", np.array(shape, np.int64))
            nodes.append(ir.node("Reshape", [nodes[-1].outputs[0], lines], name=f"{name}.flat"))
        product = ir.node("MatMul", [nodes[-1].outputs[0], value], name=name)
        move_annotation(node, product)
        nodes.append(product)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None:
            nodes.append(ir.node("Add", [product.outputs[0], bias], name=f"{name}.add"))
        tokens = nodes[-1].outputs[0]
        replaced = _token_view(node, outputs, rows * columns)
        if replaced is None:
            back = ir.node("Transpose", [tokens], {"perm": [0, 2, 1]}, name=f"{name}.channels")
            image = add_constant(graph, f"{name}.image", np.array([0, outputs, rows, columns], np.int64))
            nodes += [back, ir.node("Reshape", [back.outputs[0], image], name=f"{name}.map")]
            tokens, replaced = nodes[-1].outputs[0], node.outputs[0]
        graph.insert_before(node, nodes)
        take_over(replaced, tokens)
        if replaced is not node.outputs[0]:
            transpose = replaced.producer()
            reshape = transpose.inputs[0].producer() if transpose is not None and transpose.inputs[0] else None
            if transpose is not None and reshape is not None:
                graph.remove([transpose, reshape], safe=True)
        graph.remove(node, safe=True)


def _token_view(node: ir.Node, outputs: int, tokens: int) -> ir.Value | None:
    """Return the [n, tokens, d] value that the Conv's result is flattened to; None if anything else reads it."""
    readers = users(node.outputs[0])
    if len(readers) != 1 or node.outputs[0].is_graph_output() or readers[0].op_type not in ("Reshape", "Flatten"):
        return None
    reshape = readers[0]
    if reshape.op_type == "Reshape":
        shape = reshape.inputs[1]
        if shape is None or shape.const_value is None:
            return None
        wanted = [int(d) for d in np.asarray(shape.const_value.numpy())]
        if len(wanted) != 3 or wanted[1] not in (0, outputs) or wanted[2] not in (-1, tokens):
            return None
    elif reshape.attributes.get("axis") is not None:
        return None
    after = users(reshape.outputs[0])
    if len(after) != 1 or after[0].op_type != "Transpose" or reshape.outputs[0].is_graph_output():
        return None
    perm = after[0].attributes.get("perm")  # absent: all dimensions in reverse
    if perm is None or list(perm.as_ints()) != [0, 2, 1]:
        return None
    return after[0].outputs[0]
