"""Reshapes and transposes that move nothing, or more than they must."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript.rewriter import RewriteRuleSet
from onnxscript.rewriter.rules.common import _basic_rules as rules

from lampq_onnx.converter.passes.base import CountingPass, only_reader, take_over
from lampq_onnx.converter.passes.fold_shapes import dimensions, same_reshaped
from lampq_onnx.converter.sites import constant_array


class RemoveMoves(CountingPass):
    """Remove data movement without effect.

    1. Reshape [.., m, n] -> [-1, m, n], Transpose of the last two, Reshape -> [.., n, m] is one Transpose of the last
       two, which onnxruntime merges with a Transpose before it.
    2. A Reshape to the shape that its input has is dropped.
    3. Transposes that do nothing or follow another, Casts and Expands without effect: onnxscript's rules.
    """

    def apply(self, model: ir.Model) -> int:
        """See the class."""
        count = 0
        for node in list(model.graph):
            if node.op_type == "Reshape" and node.domain in ("", "ai.onnx"):
                count += _swap(model.graph, node) or _drop(model.graph, node)
        rule_set = RewriteRuleSet(
            [rules.no_op_transpose_rule, rules.transpose_transpose_rule, rules.no_op_cast_rule, rules.no_op_expand_rule]
        )
        return count + rule_set.apply_to_model(model)


def _drop(graph: ir.Graph, node: ir.Node) -> bool:
    source, result = node.inputs[0], node.outputs[0]
    shape, after = dimensions(source), dimensions(result)
    if source is None or shape is None or after is None or len(shape) != len(after) or result.is_graph_output():
        return False
    if not same_reshaped(shape, after, len(shape)):
        return False
    result.replace_all_uses_with(source)
    graph.remove(node, safe=True)
    return True


def _swap(graph: ir.Graph, last: ir.Node) -> bool:
    transpose = last.inputs[0].producer() if last.inputs[0] is not None else None
    if transpose is None or transpose.op_type != "Transpose" or only_reader(transpose.outputs[0], graph) is not last:
        return False
    perm = transpose.attributes.get("perm")
    first = transpose.inputs[0].producer() if transpose.inputs[0] is not None else None
    if perm is None or list(perm.as_ints()) != [0, 2, 1] or first is None or first.op_type != "Reshape":
        return False
    shape = dimensions(first.inputs[0])
    result = dimensions(last.outputs[0])
    if only_reader(first.outputs[0], graph) is not transpose or shape is None or result is None or len(shape) < 3:
        return False
    target = first.inputs[1]
    if target is None or target.const_value is None:
        return False
    flat = constant_array(target).tolist()
    if len(flat) != 3 or tuple(flat[1:]) != shape[-2:] or result != (*shape[:-2], shape[-1], shape[-2]):
        return False
    order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    swap = ir.node("Transpose", [first.inputs[0]], {"perm": order}, name=transpose.name)
    graph.insert_before(last, swap)
    take_over(last.outputs[0], swap.outputs[0])
    graph.remove([last, transpose, first], safe=True)
    return True
