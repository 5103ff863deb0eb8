"""The table of targets, and what a file for each of them holds."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, numpy_helper

from lampq_onnx.converter import convert_model, inspect_model
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.runtime.probe.timed_forms import FLOAT_FORM, timed_forms
from lampq_onnx.targets import PACKINGS, TARGETS, target_for
from tests.converter.graphs import as_ir, as_proto, measured, one_matmul, plan_for, plan_on, reference, run, vit


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_every_pair_has_a_kernel_or_is_refused_with_one_that_has(target):
    for weight in (*range(1, 9), 32):
        for inputs in (*range(2, 9), 16, 32):
            if target.kernel(weight, inputs) is not None:
                target.require_pair(weight, inputs)
                assert target.nearest(weight, inputs) == (weight, inputs) or (weight, inputs) == (32, 32)
                continue
            near = target.nearest(weight, inputs)
            assert target.kernel(*near) is not None
            with pytest.raises(UsageError, match=f"{target.name} has no kernel") as caught:
                target.require_pair(weight, inputs, "layer fc")
            assert f"W{near[0]}/A{near[1]}" in caught.value.hint
            assert "layer fc" in caught.value.message


def test_nearest_loses_as_little_as_possible():
    qnn, tensorrt = TARGETS["onnxruntime-qnn"], TARGETS["tensorrt"]
    assert qnn.nearest(3, 8) == (4, 8)
    assert qnn.nearest(5, 6) == (8, 8)
    assert qnn.nearest(8, 12) == (8, 16)
    assert tensorrt.nearest(4, 16) == (4, 8)
    assert tensorrt.nearest(4, 4) == (4, 8)


def test_auto_reads_the_machine():
    assert target_for("auto", "aarch64", ()).name == "onnxruntime-arm64"
    assert target_for("auto", "x86_64", ("avx2",)).name == "onnxruntime-x86-avx2"
    assert target_for("auto", "x86_64", ("avx2", "amx_int8")).name == "onnxruntime-x86-vnni"
    assert target_for("openvino", "aarch64", ()).name == "openvino-arm64"
    assert target_for("openvino", "x86_64", ("avx2",)).name == "openvino-x86-avx2"
    assert target_for("openvino", "x86_64", ("avx512_vnni",)).name == "openvino-x86-vnni"
    with pytest.raises(UsageError, match="unknown target 'npu'"):
        target_for("npu", "x86_64", ())


NAMES = [
    "patch_embed.proj",
    *(f"blocks.{i}.{layer}" for i in range(2) for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")),
    "head",
]


def weights() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32)


@pytest.mark.parametrize("bits", [4, 8])
def test_tensorrt_gets_signed_inputs_with_zero_point_0_and_plain_constants(bits):
    model = one_matmul(weights())
    plan = plan_for(["fc"], weight_bits=bits)
    proto = as_proto(convert_model(measured(model), plan, target=TARGETS["tensorrt"]).model)
    arrays = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    producers = {o: n for n in proto.graph.node for o in n.output}
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            if len(node.input) > 2:
                assert arrays[node.input[2]].dtype == np.int8
                assert not arrays[node.input[2]].any()
            if node.op_type == "DequantizeLinear" and "weight" in node.output[0] + node.name:
                assert node.input[0] not in producers
    x = np.random.default_rng(1).normal(size=(2, 3, 24)).astype(np.float32)
    assert {arrays[name].dtype for node in proto.graph.node for name in node.input[1:2] if "scale" in name} == {
        np.dtype(np.float16)
    }
    error = reference(proto, x) - x @ weights()
    assert np.linalg.norm(error) < {4: 0.15, 8: 0.02}[bits] * np.linalg.norm(x @ weights())


def test_fp8_is_the_nearest_number_of_float8_in_weights_and_inputs() -> None:
    model, target = one_matmul(weights(), np.ones(6, np.float32)), TARGETS["tensorrt-fp8"]
    conversion = convert_model(measured(model), plan_for(["fc"]), target=target)
    proto = as_proto(conversion.model)
    onnx.checker.check_model(proto, full_check=True)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    stored = tensors["fc.weight.quantized"]
    assert stored.data_type == tensors["fc.input.zero_point"].data_type == TensorProto.FLOAT8E4M3FN
    # By hand, from all 254 numbers of E4M3: sign, 4 bits of exponent with bias 7, 3 bits of fraction.
    positive = [m / 8 * 2.0**-6 for m in range(8)]
    positive += [(1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 16) for m in range(8) if (e, m) != (15, 7)]
    numbers = np.array(sorted({*positive, *(-x for x in positive)}))
    assert numbers[-1] == 448

    def nearest(values: np.ndarray) -> np.ndarray:
        return numbers[np.abs(values[..., None] - numbers).argmin(-1)]

    scale = np.abs(weights()).max(0) / 448
    weight = nearest(weights() / scale) * scale
    np.testing.assert_allclose(conversion.parameters["fc"].weight.dequantize().T, weight, rtol=1e-6)
    x = np.random.default_rng(1).normal(size=(2, 3, 24)).astype(np.float32)
    step = 4.0 / 448
    read = nearest(np.clip(x / step, -448, 448)) * step
    activation = conversion.parameters["fc"].activation
    assert activation is not None
    np.testing.assert_allclose(activation.fake(x), read, rtol=1e-6)
    assert (activation.low, activation.high) == pytest.approx((-4, 4))
    expected = read @ weight + 1
    found = reference(proto, x)
    # Inputs in float16 may lie on the other side of the middle between two numbers.
    assert np.linalg.norm(found - expected) < 1e-2 * np.linalg.norm(expected)
    assert np.linalg.norm(expected - 1 - x @ weights()) < 0.06 * np.linalg.norm(x @ weights())
    (layer,) = inspect_model(conversion.model)
    assert (layer.storage, layer.weight_bits, layer.activation_bits) == ("float8e4m3fn", 8, 8)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("inputs", [8, 16])
def test_qnn_gets_explicit_zero_points_and_a_quantized_result_behind_each_product(bits: int, inputs: int) -> None:
    bias = np.arange(6, dtype=np.float32)
    plan = plan_for(["fc"], weight_bits=bits, activation_bits=inputs)
    model = as_ir(one_matmul(weights(), bias))
    conversion = convert_model(model, plan, target=TARGETS["onnxruntime-qnn"])
    proto = as_proto(conversion.model)
    assert [node.op_type for node in proto.graph.node if node.op_type != "DequantizeLinear"] == [
        *("QuantizeLinear", "MatMul", "QuantizeLinear", "Add")
    ]
    assert [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 24]
    # INT4 holds every 4-bit weight: the grid with odd levels is not among those of this target.
    stored = next(tensor for tensor in proto.graph.initializer if tensor.name == "fc.weight.quantized")
    zeros = next(tensor for tensor in proto.graph.initializer if tensor.name == "fc.weight.zero_point")
    assert stored.data_type == zeros.data_type == {4: TensorProto.INT4, 8: TensorProto.INT8}[bits]
    assert not numpy_helper.to_array(zeros).astype(int).any()
    # The result by hand: input, weight and product on their levels, then the bias.
    x = np.random.default_rng(1).normal(size=(1, 3, 24)).astype(np.float32)
    numbers = conversion.parameters["fc"]
    assert numbers.activation is not None
    assert numbers.product is not None
    assert numbers.product.bits == inputs
    product = numbers.activation.fake(x) @ numbers.weight.dequantize().T
    expected = numbers.product.fake(product) + bias
    np.testing.assert_allclose(reference(proto, x), expected, atol=1.01 * numbers.product.scale)
    assert np.mean(np.abs(reference(proto, x) - expected)) < 0.2 * numbers.product.scale
    (layer,) = inspect_model(conversion.model)
    assert (layer.input, layer.outputs) == ("x", ("y",))


def test_qnn_moves_no_bytes_and_fixes_every_size() -> None:
    plan = plan_for(NAMES, weight_bits=8)
    kinds = {}
    for name in ("onnxruntime-qnn", "onnxruntime-x86-vnni"):
        proto = as_proto(convert_model(as_ir(vit()), plan, target=TARGETS[name], batch=2).model)
        producers = {o: n for n in proto.graph.node for o in n.output}
        read = [n for n in proto.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in producers]
        kinds[name] = {producers[node.input[0]].op_type for node in read}
        sizes = [d for value in (*proto.graph.input, *proto.graph.output) for d in value.type.tensor_type.shape.dim]
        assert all(size.HasField("dim_value") for size in sizes)
        assert sizes[0].dim_value == 2
        x = np.random.default_rng(1).normal(size=(2, 3, 4, 4)).astype(np.float32)
        assert run(proto, x).shape == (2, 5)
    assert kinds["onnxruntime-qnn"] == {"QuantizeLinear"}
    assert "Reshape" in kinds["onnxruntime-x86-vnni"]


def test_a_fixed_batch_changes_no_answer_and_another_one_is_refused() -> None:
    x = np.random.default_rng(1).normal(size=(3, 3, 4, 4)).astype(np.float32)
    for target in TARGETS.values():
        if target.batch is not None:
            continue
        plan = plan_on(target, NAMES, 4)
        files = [convert_model(measured(vit()), plan, target=target, batch=batch).model for batch in (None, 3)]
        answers = [run(as_proto(file), x) for file in files]
        np.testing.assert_allclose(*answers, atol=1e-5)
    fixed = as_ir(vit())
    fixed.graph.inputs[0].shape = ir.Shape([2, 3, 4, 4])
    with pytest.raises(LampqError, match="takes 2 images at once, and 3 are requested"):
        convert_model(fixed, plan, target=TARGETS["onnxruntime-x86-vnni"], batch=3)


def test_a_target_whose_products_have_quantized_results_takes_no_pass_that_cuts_products() -> None:
    assert not [t.name for t in TARGETS.values() if t.output_ranges and (t.gemm_bias or t.part_products)]


def test_what_a_target_cannot_run_is_refused_before_the_graph_is_touched():
    for target, plan, packing in (
        ("tensorrt", plan_for(["fc"], activation_bits=16), None),
        ("onnxruntime-qnn", plan_for(["fc"], weight_bits=3), None),
        ("tensorrt", plan_for(["fc"]), "exact"),
    ):
        model = as_ir(one_matmul(weights()))
        before = [node.op_type for node in model.graph]
        with pytest.raises(UsageError):
            convert_model(model, plan, packing=packing, target=TARGETS[target])
        assert [node.op_type for node in model.graph] == before


def test_an_opset_that_the_target_does_not_read_is_refused():
    with pytest.raises(LampqError, match="opset 22, but tensorrt reads at most opset 20"):
        convert_model(measured(one_matmul(weights(), opset=22)), plan_for(["fc"]), target=TARGETS["tensorrt"])


def test_packings_are_those_of_the_converter():
    assert {packing for target in TARGETS.values() for packing in target.packings} <= set(PACKINGS)


def test_probe_times_what_runs_on_a_cpu() -> None:
    cpus = ("x86-avx2", "x86-vnni", "arm64")
    assert {name for name, target in TARGETS.items() if target.runner is not None} == {
        f"{runner}-{cpu}" for runner in ("onnxruntime", "openvino") for cpu in cpus
    }
    for name, target in TARGETS.items():
        assert target.runner is None or name.startswith(target.runner)
    for target in TARGETS.values():
        # Another name decides nothing.
        other = dataclasses.replace(target, name=f"onnxruntime-{target.name}")
        if target.timed:
            assert timed_forms(other)[0] == FLOAT_FORM
        else:
            with pytest.raises(UsageError, match="cannot be timed here"):
                timed_forms(other)
