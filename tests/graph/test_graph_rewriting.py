"""onnxscript's rules let go of a graph that they were tried on."""

from __future__ import annotations

import gc
import weakref

import onnx_ir as ir
import pytest
from onnxscript.rewriter import rewrite

from lampq_onnx.converter.passes import RemoveMoves
from lampq_onnx.graph.rewriting import forget_graphs


def example() -> ir.Model:
    source = ir.Value(name="x", shape=ir.Shape([2, 3]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Transpose", [source], {"perm": [1, 0]}, outputs=[ir.Value(name="y")])
    graph = ir.Graph([source], node.outputs, nodes=[node], opset_imports={"": 20}, name="example")
    return ir.Model(graph, ir_version=10)


def test_a_graph_is_freed() -> None:
    model = example()
    rewrite(model)
    RemoveMoves()(model)
    held = weakref.ref(model.graph)
    del model
    gc.collect()
    if held() is None:
        pytest.skip("this onnxscript lets go of the graph itself")
    forget_graphs()
    gc.collect()
    assert held() is None
