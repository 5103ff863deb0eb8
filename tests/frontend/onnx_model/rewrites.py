"""Graphs of one function written in other ways, as other exporters and people write them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from lampq_onnx.graph.edits import add_constant
from lampq_onnx.graph.layers import GraphLayer, find_layers

Rewrite = Callable[[ir.Model], None]


def constants_as_nodes(model: ir.Model) -> None:
    """Every initializer is a Constant node."""
    graph = model.graph
    for value in list(graph.initializers.values()):
        node = ir.node("Constant", [], {"value": value.const_value})
        node.outputs[0].name = f"{value.name}.node"
        graph.insert_before(graph[0], node)
        value.replace_all_uses_with(node.outputs[0])
        graph.initializers.pop(value.name)


def constants_behind_identities(model: ir.Model) -> None:
    """Every initializer is read through an Identity."""
    graph = model.graph
    for value in list(graph.initializers.values()):
        node = ir.node("Identity", [value])
        node.outputs[0].name = f"{value.name}.same"
        value.replace_all_uses_with(node.outputs[0])
        node.replace_input_with(0, value)
        graph.insert_before(graph[0], node)


def a_copy_for_every_reader(model: ir.Model) -> None:
    """No two nodes read the same constant; equal ones stand under many names."""
    for value in list(model.graph.initializers.values()):
        for number, use in enumerate(list(value.uses())):
            copy = add_constant(model.graph, f"{value.name}.{number}", value.const_value.numpy())
            use.node.replace_input_with(use.idx, copy)
        model.graph.initializers.pop(value.name)


def transposed_weights(model: ir.Model) -> None:
    """Weights of MatMuls are stored (outputs, inputs), and a Transpose turns them."""
    for layer in _layers(model, "MatMul"):
        turned = add_constant(model.graph, f"{layer.name}.turned", layer.matrix())
        node = ir.node("Transpose", [turned], {"perm": [1, 0]})
        model.graph.insert_before(layer.node, node)
        layer.node.replace_input_with(1, node.outputs[0])


def bias_last(model: ir.Model) -> None:
    """x W + bias, where torch's old exporter writes bias + x W."""
    for layer in _layers(model, "MatMul"):
        if layer.bias_node is not None:
            product, bias = layer.node.outputs[0], layer.bias
            layer.bias_node.replace_input_with(0, product)
            layer.bias_node.replace_input_with(1, bias)


def bias_of_three_dimensions(model: ir.Model) -> None:
    """Biases are (1, 1, outputs)."""
    for layer in _layers(model, "MatMul"):
        if layer.bias_node is not None:
            position = next(i for i, value in enumerate(layer.bias_node.inputs) if value is layer.bias)
            wide = add_constant(model.graph, f"{layer.name}.wide", layer.bias.const_value.numpy().reshape(1, 1, -1))
            layer.bias_node.replace_input_with(position, wide)


def gemm_for_matmul(model: ir.Model) -> None:
    """Tokens of all images are the rows of a matrix, which Gemm multiplies with (outputs, inputs)."""
    _as_gemm(model, transposed=True)


def gemm_without_transposition(model: ir.Model) -> None:
    """The same with weights (inputs, outputs)."""
    _as_gemm(model, transposed=False)


def _as_gemm(model: ir.Model, *, transposed: bool) -> None:
    graph = model.graph
    for layer in _layers(model, "MatMul"):
        matrix = layer.matrix()
        rows = add_constant(graph, f"{layer.name}.rows", np.array([-1, matrix.shape[1]], np.int64))
        weight = add_constant(graph, f"{layer.name}.gemm", matrix if transposed else np.ascontiguousarray(matrix.T))
        flat = ir.node("Reshape", [layer.input, rows])
        gemm = ir.node("Gemm", [flat.outputs[0], weight, layer.bias], {"transB": int(transposed)})
        shape = add_constant(graph, f"{layer.name}.back", np.array([-1, 17, matrix.shape[0]], np.int64))
        back = ir.node("Reshape", [gemm.outputs[0], shape])
        graph.insert_before(layer.node, [flat, gemm, back])
        layer.output.replace_all_uses_with(back.outputs[0])
        graph.remove([n for n in (layer.bias_node, layer.node) if n is not None], safe=True)


def einsum_for_matmul(model: ir.Model) -> None:
    """Products with weights as Einsum, (inputs, outputs) and (outputs, inputs) in turn."""
    for number, layer in enumerate(_layers(model, "MatMul")):
        matrix, turned = layer.matrix(), number % 2 == 0
        weight = add_constant(model.graph, f"{layer.name}.einsum", matrix if turned else np.ascontiguousarray(matrix.T))
        equation = "btd,ed->bte" if turned else "...d,de->...e"
        node = ir.node("Einsum", [layer.input, weight], {"equation": equation})
        model.graph.insert_before(layer.node, node)
        layer.node.outputs[0].replace_all_uses_with(node.outputs[0])
        model.graph.remove(layer.node, safe=True)


def idle_nodes(model: ir.Model) -> None:
    """Dropout, Identity and Cast to the type that a value has behind every product."""
    for layer in _layers(model, "MatMul"):
        value = layer.output
        readers = [(use.node, use.idx) for use in value.uses()]
        chain: list[ir.Node] = []
        for kind, attributes in (("Dropout", {}), ("Identity", {}), ("Cast", {"to": int(ir.DataType.FLOAT)})):
            chain.append(ir.node(kind, [chain[-1].outputs[0] if chain else value], attributes))
        model.graph.insert_after(value.producer(), chain)
        for node, position in readers:
            node.replace_input_with(position, chain[-1].outputs[0])


def branch_that_is_never_taken(model: ir.Model) -> None:
    """The products with weights stand in the branch of an If whose condition is the constant true."""
    graph = model.graph
    yes = add_constant(graph, "yes", np.array(True))
    for layer in _layers(model, "MatMul"):
        matrix = layer.matrix()
        bodies = []
        for kind, array in (("then", matrix.T), ("else", -matrix.T)):
            own = ir.Value(
                name=f"{layer.name}.{kind}",
                const_value=ir.tensor(np.ascontiguousarray(array), name=f"{layer.name}.{kind}"),
                type=ir.TensorType(ir.DataType.FLOAT),
                shape=ir.Shape(array.shape),
            )
            product = ir.node("MatMul", [layer.input, own])
            product.outputs[0].name = f"{layer.name}.{kind}.out"
            bodies.append(
                ir.Graph([], [product.outputs[0]], nodes=[product], initializers=[own], name=f"{layer.name}.{kind}")
            )
        choice = ir.node("If", [yes], {"then_branch": bodies[0], "else_branch": bodies[1]})
        graph.insert_before(layer.node, choice)
        layer.node.outputs[0].replace_all_uses_with(choice.outputs[0])
        graph.remove(layer.node, safe=True)


def layers_in_functions(model: ir.Model) -> None:
    """Every normalization is a call of a function that the file brings along."""
    source, scale, shift = (ir.Value(name=name) for name in ("source", "scale", "shift"))
    inner = ir.node("LayerNormalization", [source, scale, shift], {"epsilon": 1e-6, "axis": -1})
    body = ir.Graph([source, scale, shift], inner.outputs, nodes=[inner], opset_imports={"": 17})
    function = ir.Function("example", "Norm", "", graph=body, attributes=[])
    model.functions[function.identifier()] = function
    model.opset_imports["example"] = 1
    for node in [n for n in model.graph if n.op_type == "LayerNormalization"]:
        call = ir.node("Norm", list(node.inputs), domain="example")
        model.graph.insert_before(node, call)
        node.outputs[0].replace_all_uses_with(call.outputs[0])
        model.graph.remove(node, safe=True)


def constant_mask(model: ir.Model) -> None:
    """Attention scores get a mask of zeros, spread from one row by a comparison."""
    for node in [n for n in model.graph if n.op_type == "Softmax"]:
        mask = add_constant(model.graph, f"{node.name}.mask", np.zeros((1, 1, 1, 17), np.float32))
        add = ir.node("Add", [node.inputs[0], mask])
        model.graph.insert_before(node, add)
        node.replace_input_with(0, add.outputs[0])


def weights_in_half_precision(model: ir.Model) -> None:
    """Weights are stored in float16, and a Cast widens them; what is computed is float32."""
    for layer in _layers(model, "MatMul"):
        stored = add_constant(model.graph, f"{layer.name}.half", layer.matrix().T.astype(np.float16))
        cast = ir.node("Cast", [stored], {"to": int(ir.DataType.FLOAT)})
        model.graph.insert_before(layer.node, cast)
        layer.node.replace_input_with(1, cast.outputs[0])


def _layers(model: ir.Model, kind: str) -> list[GraphLayer]:
    return [layer for layer in find_layers(model.graph) if layer.node.op_type == kind]
