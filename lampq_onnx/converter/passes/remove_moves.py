"""Remove reshapes and transposes that move nothing, or more than necessary."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript.rewriter import RewriteRuleSet
from onnxscript.rewriter.rules import common as rules

from lampq_onnx.graph.edits import CountingPass, place, take_over
from lampq_onnx.graph.nodes import constant_array
from lampq_onnx.graph.readers import only_reader
from lampq_onnx.graph.refusals import Outcome, Refused
from lampq_onnx.graph.shapes import dimensions, same_reshaped


class RemoveMoves(CountingPass):
    """Remove data movement without effect.

    1. Reshape [.., m, n] -> [-1, m, n], Transpose of the last two, Reshape -> [.., n, m] is one Transpose of the last
       two, which onnxruntime merges with a Transpose before it.
    2. A Reshape to the shape of its input is dropped.
    3. Transposes that do nothing or follow another, Casts and Expands without effect: onnxscript's rules.
    """

    purpose = "removal of data movement without effect"

    def apply(self, model: ir.Model) -> int:
        """Run the pass as the class describes."""
        count = 0
        for node in list(model.graph):
            if node.op_type == "Reshape" and node.domain in ("", "ai.onnx"):
                where, swapped = place(node), _swap(model.graph, node)
                outcome = swapped if swapped is True else _drop(model.graph, node) or swapped
                count += self.settle(where, outcome)
        rule_set = RewriteRuleSet(
            [rules.no_op_transpose_rule, rules.transpose_transpose_rule, rules.no_op_cast_rule, rules.no_op_expand_rule]
        )
        return count + rule_set.apply_to_model(model)


def _drop(graph: ir.Graph, node: ir.Node) -> Outcome:
    source, result = node.inputs[0], node.outputs[0]
    shape, after = dimensions(source), dimensions(result)
    if source is None or shape is None or after is None or len(shape) != len(after):
        return False
    if not same_reshaped(shape, after, len(shape)):
        return False
    if result.is_graph_output():
        return Refused("its result is an output of the graph, whose name must stay")
    result.replace_all_uses_with(source)
    graph.remove(node, safe=True)
    return True


def _swap(graph: ir.Graph, last: ir.Node) -> Outcome:
    transpose = last.inputs[0].producer() if last.inputs[0] is not None else None
    if transpose is None or transpose.op_type != "Transpose":
        return False
    perm = transpose.attributes.get("perm")
    first = transpose.inputs[0].producer() if transpose.inputs[0] is not None else None
    if perm is None or list(perm.as_ints()) != [0, 2, 1] or first is None or first.op_type != "Reshape":
        return False
    shape = dimensions(first.inputs[0])
    result = dimensions(last.outputs[0])
    target = first.inputs[1]
    if shape is None or result is None or target is None or target.const_value is None:
        return Refused("the shapes before and after the Transpose are not known")
    flat = constant_array(target).tolist()
    if len(shape) < 3 or len(flat) != 3 or tuple(flat[1:]) != shape[-2:]:
        return False
    if result != (*shape[:-2], shape[-1], shape[-2]):
        return False
    if only_reader(transpose.outputs[0], graph) is not last or only_reader(first.outputs[0], graph) is not transpose:
        return Refused("other nodes read the values between the Reshapes too")
    order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    swap = ir.node("Transpose", [first.inputs[0]], {"perm": order}, name=transpose.name)
    graph.insert_before(last, swap)
    take_over(last.outputs[0], swap.outputs[0])
    graph.remove([last, transpose, first], safe=True)
    return True
