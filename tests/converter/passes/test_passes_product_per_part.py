"""Products for the parts of a result: the same numbers to the bit, from one packed weight."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from lampq_onnx.artifacts import BitPlan, LayerPlan
from lampq_onnx.converter import convert_model
from lampq_onnx.converter.inspect import inspect_model
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.targets import TARGETS, Packing, Target
from tests.converter.graphs import (
    LEVELS,
    Builder,
    as_ir,
    as_proto,
    kernels,
    measured,
    plan_for,
    plan_on,
    reference,
    run,
    vit,
)

AVX2 = TARGETS["onnxruntime-x86-avx2"]
VNNI = TARGETS["onnxruntime-x86-vnni"]
TOKENS, WIDTH, HEADS = 5, 16, 2


def converted(
    model: onnx.ModelProto, plan: BitPlan, target: Target = AVX2, packing: Packing | None = None
) -> tuple[onnx.ModelProto, int]:
    result = convert_model(as_ir(model), plan, target=target, packing=packing)
    return as_proto(result.model), result.passes["ProductPerPart"]


def whole(target: Target) -> Target:
    return dataclasses.replace(target, part_products=False)


def unbound(
    shape: Sequence[int] = (-1, TOKENS, 3, HEADS, 8),
    perm: Sequence[int] | None = (2, 0, 3, 1, 4),
    axis: int = 0,
    *,
    bias: bool = True,
    parts: int = 3,
    **attributes: int,
) -> onnx.ModelProto:
    """x [n, TOKENS, WIDTH] -> a layer of 3 WIDTH outputs, taken apart along an axis; the parts are the outputs."""
    b = Builder(0)
    y = b.op("MatMul", "x", b.random("fc.weight", WIDTH, 3 * WIDTH), name="mm")
    if bias:
        y = b.op("Add", y, b.random("fc.bias", 3 * WIDTH))
    y = b.op("Reshape", y, b.ints(*shape), **attributes)
    if perm is not None:
        y = b.op("Transpose", y, perm=list(perm))
    names = [
        b.rename(b.op("Gather", y, b.constant(f"i{part}", part, np.int64), axis=axis), f"part{part}")
        for part in range(parts)
    ]
    return b.model({"x": ["n", TOKENS, WIDTH]}, dict.fromkeys(names))


def chunked(sizes: Sequence[int]) -> onnx.ModelProto:
    """The same layer, split along its channels."""
    b = Builder(0)
    y = b.op("MatMul", "x", b.random("fc.weight", WIDTH, sum(sizes)), name="mm")
    y = b.op("Add", y, b.random("fc.bias", sum(sizes)))
    names = [f"part{part}" for part in range(len(sizes))]
    b.nodes.append(onnx.helper.make_node("Split", [y, b.ints(*sizes)], names, axis=-1))
    return b.model({"x": ["n", TOKENS, WIDTH]}, dict.fromkeys(names))


def tokens(count: int = 3) -> np.ndarray:
    return np.random.default_rng(1).uniform(-3, 3, (count, TOKENS, WIDTH)).astype(np.float32)


def every_output(model: onnx.ModelProto, x: np.ndarray, level: ort.GraphOptimizationLevel) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    return list(ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": x}))


CUT = {
    "queries, keys, values": unbound(),
    "without bias": unbound(bias=False),
    "without transpose": unbound(perm=None, axis=2),
    "other order": unbound(perm=(0, 3, 2, 1, 4), axis=2),
    "one axis of channels": unbound((-1, TOKENS, 3, WIDTH), (0, 2, 1, 3), 1),
    "zeros in the shape": unbound((0, 0, 3, HEADS, 8)),
    "as torch exports it": unbound(allowzero=1),
    "channels": chunked([16, 24, 8]),
}


@pytest.mark.parametrize("case", CUT)
@pytest.mark.parametrize("target", [AVX2, VNNI], ids=lambda target: target.name)
def test_every_part_is_the_same_to_the_bit(case: str, target: Target) -> None:
    plan = plan_for(["fc"], weight_bits=6, low=-3, high=3)
    (cut, count), (split, none) = (converted(CUT[case], plan, kind) for kind in (target, whole(target)))
    assert (count, none) == (1, 0)
    found = [node.op_type for node in cut.graph.node]
    assert (found.count("Split"), found.count("Slice")) == (0, 3)  # the weights are cut
    assert found.count("MatMul") + found.count("Gemm") == 3
    for level in LEVELS:
        if target is AVX2 or level is not LEVELS[0]:
            pairs = zip(every_output(cut, tokens(), level), every_output(split, tokens(), level), strict=True)
            assert all(np.array_equal(a, b) for a, b in pairs)
    used = kernels(cut)
    assert used.count("MatMulIntegerToFloat") + used.count("QGemm") == 3
    assert not {"Slice", "Squeeze", "Gather", "DequantizeLinear", "MatMul", "Gemm"} & set(used)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("packing", ["exact", "native", "container"])
@pytest.mark.parametrize("activation_bits", [8, 32])
def test_every_width_and_storage(bits: int, packing: Packing, activation_bits: int) -> None:
    layer = plan_for(["fc"], weight_bits=bits, low=-3, high=3).layers["fc"]
    if activation_bits == 32:
        layer = LayerPlan(weight_bits=bits, activation_bits=32)
    plan = BitPlan(layers={"fc": layer})
    (cut, count), (split, _) = (converted(unbound(), plan, kind, packing) for kind in (AVX2, whole(AVX2)))
    assert count == 1
    both = [every_output(model, tokens(), LEVELS[0]) for model in (cut, split)]
    for a, b in zip(*both, strict=True):
        # Float kernels may add up in another order for another number of channels.
        np.testing.assert_allclose(a, b, rtol=0, atol=0 if activation_bits == 8 else 1e-5)
    (mine,), (other,) = (inspect_model(as_ir(model)) for model in (cut, split))
    assert mine == dataclasses.replace(other, outputs=mine.outputs)
    assert len(mine.outputs) == 3
    assert all(output in {name for node in cut.graph.node for name in node.output} for output in mine.outputs)
    wanted = {t.name: numpy_helper.to_array(t) for t in split.graph.initializer if t.name.startswith("fc.weight.bits")}
    there = {t.name: numpy_helper.to_array(t) for t in cut.graph.initializer if t.name.startswith("fc.weight.bits")}
    assert wanted.keys() == there.keys()
    assert all(np.array_equal(wanted[name], there[name]) for name in wanted)


LEFT = {
    "interleaved channels": unbound((-1, TOKENS, HEADS, 3, 8), (3, 0, 2, 1, 4)),
    "tokens, not channels": unbound((-1, TOKENS, 3, HEADS, 8), (1, 0, 2, 3, 4), parts=TOKENS),
    "some parts": unbound(parts=2),
}


@pytest.mark.parametrize("case", LEFT)
def test_other_parts_stay(case: str) -> None:
    plan = plan_for(["fc"], weight_bits=5)
    cut, count = converted(LEFT[case], plan)
    assert count == 0
    assert cut.SerializeToString() == converted(LEFT[case], plan, whole(AVX2))[0].SerializeToString()


def test_a_result_that_is_read_whole_stays() -> None:
    model = chunked([16, 32])
    result = next(node.output[0] for node in model.graph.node if node.op_type == "Add")
    shape = ["n", TOKENS, 48]
    model.graph.output.append(onnx.helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, shape))
    assert converted(model, plan_for(["fc"]))[1] == 0


def test_other_targets_keep_the_split() -> None:
    for name, target in TARGETS.items():
        count = convert_model(measured(unbound()), plan_on(target, ["fc"], 8), target=target).passes["ProductPerPart"]
        assert count == (name not in ("onnxruntime-arm64", "openvino-arm64", "onnxruntime-qnn", "onnxruntime-cuda")), (
            name
        )


@pytest.mark.parametrize("linear", ["matmul", "gemm"])
@pytest.mark.parametrize("target", [AVX2, VNNI], ids=lambda target: target.name)
def test_a_vision_transformer(linear: str, target: Target) -> None:
    model = vit(linear=linear)
    names = [graph_layer.name for graph_layer in find_layers(as_ir(model).graph)]
    plan = plan_for(names, weight_bits=4)
    (cut, count), (split, _) = (converted(model, plan, kind) for kind in (target, whole(target)))
    assert count == 2
    assert [layer.name for layer in inspect_model(as_ir(cut))] == names
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(run(cut, x), run(split, x), rtol=0, atol=1e-5)
    np.testing.assert_allclose(run(cut, x, LEVELS[-1]), reference(cut, x), rtol=0, atol=1e-4)


def two(
    sizes: Sequence[int], others: Sequence[int], *, weight: str = "b.weight", bias: str = "b.bias"
) -> onnx.ModelProto:
    """Two layers of 48 outputs that read x and are split along their channels."""
    b = Builder(0)
    names = []
    for layer, own, parts in (("a", ("a.weight", "a.bias"), sizes), ("b", (weight, bias), others)):
        for name in set(own) - b.constants.keys():
            b.constant(name, np.random.default_rng(1).normal(size=(WIDTH, 48)[name.endswith("bias") :]))
        y = b.op("Add", b.op("MatMul", "x", own[0], name=layer), own[1])
        ends = [f"{layer}{part}" for part in range(len(parts))]
        b.nodes.append(onnx.helper.make_node("Split", [y, b.ints(*parts)], ends, axis=-1))
        names += ends
    return b.model({"x": ["n", TOKENS, WIDTH]}, dict.fromkeys(names))


@pytest.mark.parametrize("target", [AVX2, VNNI], ids=lambda target: target.name)
@pytest.mark.parametrize(
    ("sizes", "others", "shared"),
    [
        ([16, 16, 16], [24, 24], {}),
        ([16, 16, 16], [24, 24], {"bias": "a.bias"}),
        ([16, 16, 16], [24, 24], {"weight": "a.weight"}),
        ([16, 16, 16], [16, 16, 16], {"weight": "a.weight", "bias": "a.bias"}),
        ([16, 16, 16], [48], {"weight": "a.weight"}),
    ],
)
def test_names_do_not_collide(sizes: list[int], others: list[int], shared: dict[str, str], target: Target) -> None:
    model = two(sizes, others, **shared)
    layers = [layer.name for layer in find_layers(as_ir(model).graph)]
    plan = plan_for(layers, weight_bits=5, low=-3, high=3)
    (cut, count), (split, _) = (converted(model, plan, kind) for kind in (target, whole(target)))
    assert count == 1 + (len(others) > 1)
    names = [node.name for node in cut.graph.node if node.name]
    assert len(names) == len(set(names))
    pairs = zip(every_output(cut, tokens(), LEVELS[-1]), every_output(split, tokens(), LEVELS[-1]), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_names_that_the_model_has_are_left_to_it() -> None:
    model = chunked([16, 32])
    model.graph.node.append(onnx.helper.make_node("Neg", ["part0"], ["fc.bias.0.16"], name="fc.0"))
    shape = ["n", TOKENS, 16]
    model.graph.output.append(onnx.helper.make_tensor_value_info("fc.bias.0.16", onnx.TensorProto.FLOAT, shape))
    cut, count = converted(model, plan_for(["fc"], weight_bits=4))
    assert count == 1
    first, _, negative = every_output(cut, tokens(), LEVELS[-1])
    np.testing.assert_array_equal(first, -negative)


@pytest.mark.parametrize("bits", [2, 4, 5, 8])
def test_openvino_computes_parts_with_float_inputs(bits: int) -> None:
    openvino = pytest.importorskip("openvino")
    plan = BitPlan(layers={"fc": LayerPlan(weight_bits=bits, activation_bits=32)})
    model, count = converted(unbound(), plan, TARGETS["openvino-x86-vnni"])
    assert count == 1
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(openvino.Core().read_model(model.SerializeToString()), "CPU", options)
    found = compiled([tokens()])
    for index, wanted in enumerate(every_output(model, tokens(), LEVELS[0])):
        np.testing.assert_allclose(found[index], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("bits", [5, 8])
def test_a_part_that_nothing_reads_has_no_product(bits: int) -> None:
    model = chunked([16, 24, 8])
    del model.graph.output[0]
    plan = plan_for(["fc"], weight_bits=bits)
    (cut, count), (split, _) = (converted(model, plan, kind) for kind in (VNNI, whole(VNNI)))
    assert count == 1
    assert kernels(cut).count("QGemm") == 2
    (mine,), (other,) = (inspect_model(as_ir(proto)) for proto in (cut, split))
    assert mine == dataclasses.replace(other, outputs=mine.outputs)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1), (1, 1, 48), (1, 1, 1, 48), (1, 1, 1, 1)])
def test_biases_of_every_shape(shape: tuple[int, ...]) -> None:
    b = Builder(0)
    y = b.op("MatMul", "x", b.random("fc.weight", WIDTH, 48), name="mm")
    y = b.op("Add", y, b.constant("fc.bias", np.random.default_rng(2).normal(size=shape)))
    b.nodes.append(onnx.helper.make_node("Split", [y, b.ints(16, 32)], ["part0", "part1"], axis=-1))
    model = b.model({"x": ["n", TOKENS, WIDTH]}, {"part0": None, "part1": None})
    plan = plan_for(["fc"], weight_bits=4)
    (cut, count), (split, _) = (converted(model, plan, kind) for kind in (AVX2, whole(AVX2)))
    assert count == (len(shape) < 4)
    for a, c in zip(every_output(cut, tokens(), LEVELS[-1]), every_output(split, tokens(), LEVELS[-1]), strict=True):
        assert a.shape == c.shape
        np.testing.assert_array_equal(a, c)
    if count:
        # The layer ends behind its bias: with the float file's tensors.
        assert inspect_model(as_ir(cut))[0].outputs == ("part0", "part1")


def test_declared_shapes_of_outputs_stay() -> None:
    model = chunked([16, 32])
    for value, size in zip(model.graph.output, (16, 32), strict=True):
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, ["batch", TOKENS, size]))
    cut, count = converted(model, plan_for(["fc"]))
    assert count == 1
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in cut.graph.output] == ["batch", "batch"]


def test_operators_of_other_domains_and_inner_graphs_stay() -> None:
    model = chunked([16, 32])
    split = next(node for node in model.graph.node if node.op_type == "Split")
    split.domain = "elsewhere"
    model.opset_import.append(onnx.helper.make_opsetid("elsewhere", 1))
    graph = as_ir(model)
    assert convert_model(graph, plan_for(["fc"]), target=AVX2).passes["ProductPerPart"] == 0
    inner = chunked([16, 32])
    split = next(node for node in inner.graph.node if node.op_type == "Split")
    inner.graph.node.remove(split)
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in split.output]
    branch = onnx.helper.make_graph([split], "branch", [], ends)
    other = onnx.helper.make_graph(
        [onnx.helper.make_node("Split", [split.input[0], split.input[1]], ["p", "q"], axis=-1)],
        "other", [], [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "pq"],
    )  # fmt: skip
    inner.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    inner.graph.node.append(
        onnx.helper.make_node("If", ["always"], list(split.output), then_branch=branch, else_branch=other)
    )
    for target in (AVX2, VNNI):
        kept, count = converted(inner, plan_for(["fc"], weight_bits=4), target)
        assert count == 0
        assert [part.shape for part in every_output(kept, tokens(), LEVELS[-1])] == [(3, TOKENS, 16), (3, TOKENS, 32)]


@pytest.mark.parametrize("sizes", [[4] * 16, [4, 44], [48]])
def test_many_or_narrow_parts_stay(sizes: list[int]) -> None:
    assert converted(chunked(sizes), plan_for(["fc"]))[1] == 0


def test_files_without_labels_count_their_bytes_once() -> None:
    cut, _ = converted(unbound(), plan_for(["fc"], weight_bits=8), VNNI)
    for node in cut.graph.node:
        del node.metadata_props[:]
    (layer,) = inspect_model(as_ir(cut))
    assert (layer.bytes, len(layer.outputs)) == (3 * WIDTH * WIDTH, 3)


def test_gates_of_an_mlp_are_products_of_their_own() -> None:
    b = Builder(0)
    y = b.op("Add", b.op("MatMul", "x", b.random("fc.weight", WIDTH, 64), name="mm"), b.random("fc.bias", 64))
    b.nodes.append(onnx.helper.make_node("Split", [y, b.ints(32, 32)], ["left", "right"], axis=-1))
    b.rename(b.op("Mul", b.op("Mul", "left", b.op("Sigmoid", "left")), "right"), "y")
    model = b.model({"x": ["n", TOKENS, WIDTH]}, {"y": ["n", TOKENS, 32]})
    plan = plan_for(["fc"], weight_bits=4, low=-3, high=3)
    cut, count = converted(model, plan, VNNI)
    assert count == 1
    used = kernels(cut)
    assert used.count("QGemm") == 2
    assert "Split" not in used
    split, _ = converted(model, plan, whole(VNNI))
    np.testing.assert_allclose(run(cut, tokens()), run(split, tokens()), rtol=0, atol=1e-5)
