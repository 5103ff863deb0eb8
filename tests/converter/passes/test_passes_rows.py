"""Values that stay in rows: the same bits, fewer Reshapes, and nothing changed where rows are not known."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import pytest

from lampq_onnx.converter import convert_model
from lampq_onnx.converter.inspect import inspect_model
from lampq_onnx.converter.passes import StayInRows
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.targets import TARGETS
from tests.converter.graphs import LEVELS, Builder, as_ir, as_proto, kernels, plan_for, reference, run, vit

VNNI = TARGETS["onnxruntime-x86-vnni"]


def applied(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    graph = as_ir(model)
    step = StayInRows(VNNI)
    step(graph)
    common_passes.RemoveUnusedNodesPass()(graph)
    common_passes.TopologicalSortPass()(graph)
    return as_proto(graph), step.count


def reshapes(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Reshape" for node in model.graph.node)


def gemm(b: Builder, x: str, name: str, inputs: int, outputs: int, sizes: tuple[int, ...] = (-1, 3)) -> str:
    """x [n, 3, inputs] -> rows -> Gemm -> [n, 3, outputs]."""
    rows = b.op("Reshape", x, b.ints(-1, inputs))
    y = b.op("Gemm", rows, b.random(f"{name}.weight", inputs, outputs), b.random(f"{name}.bias", outputs))
    return b.op("Reshape", y, b.ints(*sizes, outputs))


def test_a_transformer_gives_the_same_bits_with_fewer_reshapes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = vit()
    plan = plan_for([layer.name for layer in find_layers(as_ir(model).graph)])
    after = as_proto(convert_model(as_ir(model), plan, target=VNNI).model)
    monkeypatch.setattr(StayInRows, "apply", lambda *_: 0)
    before = as_proto(convert_model(as_ir(model), plan, target=VNNI).model)
    onnx.checker.check_model(after, full_check=True)
    # Gone: around GELU, and after the last sum of a block; of the residuals, one is left, for the mean of the tokens.
    assert reshapes(after) <= reshapes(before) - 6
    x = np.random.default_rng(0).normal(size=(3, 3, 4, 4)).astype(np.float32)
    np.testing.assert_array_equal(run(after, x, LEVELS[0]), run(before, x, LEVELS[0]))
    np.testing.assert_array_equal(run(after, x, LEVELS[-1]), run(before, x, LEVELS[-1]))
    assert kernels(after).count("QGemm") == kernels(before).count("QGemm")


@pytest.mark.parametrize("last", ["LayerNormalization", "Mul"])
def test_an_operator_whose_rows_nothing_reads_keeps_the_dimensions(last: str) -> None:
    """OpenVINO does not load such an operator on rows with a Reshape behind it, if tokens outnumber channels."""
    b = Builder(0)
    y = b.op("MatMul", "x", b.random("fc.weight", 16, 32), name="fc")
    y = b.op("Add", y, b.random("fc.bias", 32))
    gain = b.random("gain", 32)
    y = b.op(last, y, gain, axis=-1) if last == "LayerNormalization" else b.op(last, gain, b.op("Gelu", y))
    b.rename(b.op("Concat", y, y, axis=1), "y")
    model = b.model({"x": ["n", 65, 16]}, {"y": ["n", 130, 32]})
    file = as_proto(convert_model(as_ir(model), plan_for(["fc"], weight_bits=7), target=VNNI).model)
    operators = [node.op_type for node in file.graph.node]
    assert operators[operators.index("Gemm") + 1] == "Reshape"
    assert operators[-2:] == [last, "Concat"]
    x = np.random.default_rng(1).uniform(-3, 3, (2, 65, 16)).astype(np.float32)
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(
        openvino.Core().read_model(file.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    np.testing.assert_allclose(compiled(x)[0], run(file, x), atol=1e-4)


def test_values_in_rows_have_the_names_of_the_float_graph() -> None:
    model = vit()
    plan = plan_for([layer.name for layer in find_layers(as_ir(model).graph)])
    after = convert_model(as_ir(model), plan, target=VNNI).model
    written = {value.name for node in as_ir(model).graph for value in node.outputs}
    outputs = {layer.name: layer.outputs for layer in inspect_model(after)}
    for block in (0, 1):
        for name in ("attn.proj", "mlp.fc1", "mlp.fc2"):
            assert set(outputs[f"blocks.{block}.{name}"]) <= written, name


@pytest.mark.parametrize("axis", [-1, 2])
def test_residuals_norms_and_activations_read_rows(axis: int) -> None:
    b = Builder(0)
    first = gemm(b, "x", "a", 8, 8)
    second = b.op("Add", "x", first)
    gain, shift = b.constant("gain", np.ones(8)), b.constant("shift", np.ones(8))
    norm = b.op("LayerNormalization", second, gain, shift, axis=axis)
    third = gemm(b, b.op("Gelu", gemm(b, norm, "b", 8, 16)), "c", 16, 8)
    b.rename(b.op("Add", second, b.op("Mul", third, b.random("gamma", 8))), "y")
    model = b.model({"x": ["n", 3, 8]}, {"y": ["n", 3, 8]})
    after, count = applied(model)
    # Left: x to rows, and both terms of the output back.
    assert (reshapes(model), reshapes(after)) == (6, 3)
    assert count >= 5
    x = np.random.default_rng(1).normal(size=(4, 3, 8)).astype(np.float32)
    np.testing.assert_allclose(reference(after, x), reference(model, x), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(run(after, x, LEVELS[-1]), run(model, x, LEVELS[0]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "case", ["broadcast", "normed over more", "channels", "several outputs", "open sizes", "zeros"]
)
def test_operators_that_need_the_dimensions_keep_them(case: str) -> None:
    b = Builder(0)
    tokens: str | int = "tokens" if case == "open sizes" else 3
    y = gemm(b, "x", "a", 8, 8, (0, -1) if case == "open sizes" else (-1, 3))
    if case == "open sizes":  # nothing says where the images end
        b.nodes.pop()
        y = b.op("Reshape", b.nodes[-1].output[0], b.op("Shape", "x"))
    if case == "broadcast":
        y = b.op("Add", y, b.random("positions", 3, 8))
    elif case == "normed over more":
        scale, shift = b.constant("gain", np.ones((3, 8))), b.constant("shift", np.zeros((3, 8)))
        y = b.op("LayerNormalization", y, scale, shift, axis=1)
    elif case == "channels":
        scale, zero = b.constant("scale", np.ones(8)), b.constant("zero", np.zeros(8), np.uint8)
        y = b.op("DequantizeLinear", b.op("QuantizeLinear", y, scale, zero, axis=2), scale, zero, axis=2)
    elif case == "several outputs":
        y = b.op("Concat", *b.ops("Split", y, outputs=2, axis=1, num_outputs=2), axis=1)
    elif case == "zeros":
        y = b.op("Reshape", y, b.ints(0, 0, 2, 4))
    else:
        y = b.op("Gelu", y)
    b.rename(y, "y")
    model = b.model({"x": ["n", tokens, 8]}, {"y": None})
    after, count = applied(model)
    assert count == 0
    x = np.random.default_rng(1).normal(size=(4, 3, 8)).astype(np.float32)
    np.testing.assert_array_equal(reference(after, x), reference(model, x))


@pytest.mark.parametrize("shape", [(8,), (1, 8), (1, 1, 8), (1, 1, 1)])
def test_constants_of_any_rank_between_two_layers(shape: tuple[int, ...]) -> None:
    b = Builder(0)
    scaled = b.op("Mul", gemm(b, "x", "a", 8, 8), b.random("gamma", *shape))
    b.rename(gemm(b, scaled, "b", 8, 8), "y")
    model = b.model({"x": ["n", 3, 8]}, {"y": ["n", 3, 8]})
    found, _ = applied(model)
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    np.testing.assert_array_equal(run(found, x, LEVELS[-1]), run(model, x, LEVELS[-1]))


def test_the_output_of_the_graph_keeps_its_name_and_shape() -> None:
    b = Builder(0)
    b.rename(b.op("Gelu", gemm(b, "x", "a", 8, 8)), "y")
    model = b.model({"x": ["n", 3, 8]}, {"y": ["n", 3, 8]})
    after, count = applied(model)
    assert count == 0
    assert isinstance(as_ir(after), ir.Model)
    assert [value.name for value in after.graph.output] == ["y"]


def test_other_targets_keep_what_they_have() -> None:
    b = Builder(0)
    b.rename(b.op("Add", b.op("Gelu", gemm(b, "x", "a", 8, 8)), "x"), "y")
    model = as_ir(b.model({"x": ["n", 3, 8]}, {"y": ["n", 3, 8]}))
    step = StayInRows(TARGETS["onnxruntime-x86-avx2"])
    step(model)
    assert step.count == 0
