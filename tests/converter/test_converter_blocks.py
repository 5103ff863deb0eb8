"""Files with weights in blocks and numbers in float16: what they hold, and what onnxruntime computes on a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper

from lampq_onnx.converter import convert_model, inspect_model
from lampq_onnx.converter.unapplied import layer_facts
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.overflows import Overflows, read_overflows, write_overflows
from lampq_onnx.quantization import fit_weight_grid
from lampq_onnx.runtime.engine import engine_for
from lampq_onnx.runtime.sessions import open_session, session_options
from lampq_onnx.targets import BLOCK, TARGETS, Packing
from tests.converter.graphs import as_ir, as_proto, one_matmul, plan_for, plan_on, reference, vit

CUDA = TARGETS["onnxruntime-cuda"]
NONE = Overflows()
INPUTS = 150  # two blocks and a part of a third one

HERE = engine_for("auto", "auto", CUDA.name)
"""What checks files for GPUs on this CPU: products keep their inputs in float32."""


def weights() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(INPUTS, 6)).astype(np.float32)


def images() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2, 3, INPUTS)).astype(np.float32)


def with_facts(model: onnx.ModelProto, found: Overflows = NONE) -> ir.Model:
    graph = as_ir(model)
    write_overflows(graph, found)
    return graph


@pytest.mark.parametrize("bits", [4, 8])
def test_a_layer_is_a_dequantized_constant_in_blocks_and_a_product_in_float16(bits: int) -> None:
    bias = np.linspace(-1, 1, 6).astype(np.float32)
    plan = plan_for(["fc"], weight_bits=bits, activation_bits=32)
    conversion = convert_model(with_facts(one_matmul(weights(), bias)), plan, target=CUDA, packing="native")
    proto = as_proto(conversion.model)
    onnx.checker.check_model(proto, full_check=True)
    assert [node.op_type for node in proto.graph.node] == ["Cast", "DequantizeLinear", "MatMul", "Add", "Cast"]
    assert proto.opset_import[0].version == 21
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    stored = tensors["fc.weight.quantized"]
    assert stored.data_type == {4: TensorProto.INT4, 8: TensorProto.INT8}[bits]
    assert len(stored.raw_data) == INPUTS * 6 * bits // 8
    (dequantize,) = [node for node in proto.graph.node if node.op_type == "DequantizeLinear"]
    facts = {attribute.name: attribute.i for attribute in dequantize.attribute}
    assert facts == {"axis": 0, "block_size": BLOCK}
    scale = numpy_helper.to_array(tensors[dequantize.input[1]])
    assert (scale.dtype, scale.shape) == (np.float16, (3, 6))
    # The numbers by hand: each weight is its integer times the scale of its block, all in float16.
    integers = numpy_helper.to_array(stored).astype(np.float32)
    by_hand = integers * np.repeat(scale.astype(np.float32), BLOCK, axis=0)[:INPUTS]
    np.testing.assert_array_equal(by_hand.T, conversion.parameters["fc"].weight.dequantize())
    expected = images() @ by_hand + bias
    for optimize in (False, True):
        session = open_session(proto.SerializeToString(), threads=1, optimize=optimize, engine=HERE)
        found = session.run(None, {"x": images()})[0]
        assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)
    error = np.linalg.norm(expected - bias - images() @ weights()) / np.linalg.norm(images() @ weights())
    assert error < {4: 0.11, 8: 0.007}[bits]
    (layer,) = inspect_model(conversion.model)
    assert (layer.name, layer.weight_bits, layer.activation_bits) == ("fc", bits, 32)
    assert (layer.storage, layer.bytes, layer.parameters) == (f"int{bits}", INPUTS * 6 * bits // 8, INPUTS * 6)


@pytest.mark.parametrize("bits", range(2, 9))
def test_exact_storage_takes_its_bits_and_is_unpacked_when_it_is_loaded(bits: int, tmp_path: Path) -> None:
    plan = plan_for(["fc"], weight_bits=bits, activation_bits=32)
    conversion = convert_model(with_facts(one_matmul(weights())), plan, target=CUDA, packing="exact")
    proto = as_proto(conversion.model)
    weight = conversion.parameters["fc"].weight
    assert (weight.block, conversion.stored["fc"].bytes) == (BLOCK, -(-INPUTS * 6 * bits // 8))
    expected = images() @ weight.dequantize().T
    assert np.linalg.norm(reference(proto, images()) - expected) < 1e-3 * np.linalg.norm(expected)
    options = session_options(1, precision="f32")
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": images()})[0]
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)
    # What is left of the nodes: the product, in float32 on a CPU, and Casts.
    assert {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node} == {"Cast", "MatMul"}
    (layer,) = inspect_model(conversion.model)
    assert (layer.weight_bits, layer.activation_bits, layer.bytes) == (bits, 32, conversion.stored["fc"].bytes)


def test_onnxruntime_fuses_each_layer(tmp_path: Path) -> None:
    plan = plan_for(["fc"], weight_bits=4, activation_bits=32)
    proto = as_proto(convert_model(with_facts(one_matmul(weights())), plan, target=CUDA, packing="native").model)
    options = session_options(1, precision="f32")
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(options.optimized_model_filepath)
    (fused,) = [node for node in optimized.graph.node if node.op_type == "MatMulNBits"]
    facts = {attribute.name: attribute.i for attribute in fused.attribute}
    assert (facts["bits"], facts["block_size"]) == (4, BLOCK)
    assert facts["accuracy_level"] == 1


@pytest.mark.parametrize("packing", ["exact", "native"])
def test_widths_mix_in_one_file_and_all_layers_are_found(packing: Packing) -> None:
    names = [f"blocks.{i}.{layer}" for i in range(2) for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    names = ["patch_embed.proj", *names, "head"]
    plan = plan_for(names, weight_bits=8, activation_bits=32).with_weight_bits(dict.fromkeys(names[1::2], 4))
    conversion = convert_model(with_facts(vit()), plan, target=CUDA, packing=packing)
    proto = as_proto(conversion.model)
    onnx.checker.check_model(proto, full_check=True)
    assert {layer.name: layer.weight_bits for layer in inspect_model(conversion.model)} == {
        name: plan.layers[name].weight_bits for name in names
    }
    assert not [node for node in proto.graph.node if node.op_type in ("Conv", "Gemm", "QuantizeLinear")]
    assert read_overflows(conversion.model) is None
    x = np.random.default_rng(1).normal(size=(3, 3, 4, 4)).astype(np.float32)
    found = open_session(proto.SerializeToString(), threads=1).run(None, {proto.graph.input[0].name: x})[0]
    plain = reference(proto, x)
    assert np.linalg.norm(found - plain) < 5e-3 * np.linalg.norm(plain)
    assert np.linalg.norm(found - reference(vit(), x)) < 0.2 * np.linalg.norm(plain)


def test_given_weights_are_taken_only_if_they_are_in_blocks() -> None:
    plan = plan_for(["fc"], weight_bits=4, activation_bits=32)
    rows = fit_weight_grid(weights().T, 4, ("mid-tread",)).quantize(weights().T)
    blocks = fit_weight_grid(weights().T, 4, ("mid-tread",), BLOCK).quantize(weights().T)
    for given, nearest in ((rows, ("fc",)), (blocks, ())):
        found = convert_model(with_facts(one_matmul(weights())), plan, target=CUDA, weights={"fc": given})
        assert found.nearest == nearest
        assert found.parameters["fc"].weight.block == BLOCK


def test_a_file_that_does_not_say_what_overflows_is_refused() -> None:
    plan = plan_for(["fc"], weight_bits=4, activation_bits=32)
    with pytest.raises(LampqError, match="does not say what overflows") as caught:
        convert_model(as_ir(one_matmul(weights())), plan, target=CUDA)
    assert "--calibration" in caught.value.hint
    # Other targets ignore the entry, and do not copy it.
    found = convert_model(with_facts(one_matmul(weights())), plan_for(["fc"]), target=TARGETS["onnxruntime-x86-vnni"])
    assert read_overflows(found.model) is None


def test_quantized_inputs_and_other_widths_are_refused() -> None:
    for plan, near in ((plan_for(["fc"]), "W8/A32"), (plan_for(["fc"], weight_bits=1, activation_bits=32), "W2/A32")):
        with pytest.raises(UsageError, match="no kernel") as caught:
            convert_model(with_facts(one_matmul(weights())), plan, target=CUDA)
        assert near in caught.value.hint


def test_a_layer_that_overflows_is_a_product_in_float32() -> None:
    plan = plan_for(["fc"], weight_bits=8, activation_bits=32)
    large = one_matmul(1e4 * weights())
    x = 10 * images()
    broken = as_proto(convert_model(with_facts(large), plan, target=CUDA, packing="native").model)
    assert not np.isfinite(reference(broken, x)).all()
    proto = as_proto(convert_model(with_facts(large, Overflows(("y",))), plan, target=CUDA, packing="native").model)
    assert [node.op_type for node in proto.graph.node] == ["DequantizeLinear", "MatMul"]
    np.testing.assert_allclose(reference(proto, x), 1e5 * images() @ weights(), rtol=0.05, atol=2e4)


def test_all_tensors_that_overflow_are_in_float32_under_their_new_names_too() -> None:
    model = vit()
    names = [layer.name for layer in find_layers(as_ir(model).graph)]
    everything = tuple(name for node in model.graph.node for name in node.output)
    proto = as_proto(
        convert_model(with_facts(model, Overflows(everything)), plan_on(CUDA, names, 8), target=CUDA).model
    )
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    computing = {"MatMul", "Gemm", "Add", "Gelu", "Softmax", "LayerNormalization"}
    found = {node.output[0]: kinds.get(node.output[0]) for node in proto.graph.node if node.op_type in computing}
    assert found
    assert {name for name, kind in found.items() if kind == TensorProto.FLOAT16} == set()


def test_damaged_metadata_is_refused() -> None:
    graph = as_ir(one_matmul(weights()))
    graph.metadata_props["lampq_onnx.float32_values"] = '["y"]'
    with pytest.raises(LampqError, match="is damaged"):
        read_overflows(graph)


@pytest.mark.parametrize(("name", "kind"), [("tensorrt", TensorProto.FLOAT), ("onnxruntime-cuda", TensorProto.FLOAT16)])
def test_a_normalization_stays_in_float32_where_its_sum_of_squares_overflows_there(name: str, kind: int) -> None:
    target = TARGETS[name]
    names = [layer.name for layer in find_layers(as_ir(vit()).graph)]
    norms = [node.output[0] for node in vit().graph.node if node.op_type == "LayerNormalization"]
    graph = with_facts(vit(), Overflows((), (norms[1],)))
    proto = as_proto(convert_model(graph, plan_on(target, names, 8), target=target).model)
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    found = [kinds[node.output[0]] for node in proto.graph.node if node.op_type == "LayerNormalization"]
    assert found.count(TensorProto.FLOAT16) == len(norms) - (kind == TensorProto.FLOAT)
    x = np.random.default_rng(1).normal(size=(2, 3, 4, 4)).astype(np.float32)
    wanted = reference(vit(), x)
    assert np.linalg.norm(reference(proto, x) - wanted) < 0.1 * np.linalg.norm(wanted)


def test_rounded_weights_of_another_type_of_number_are_not_taken() -> None:
    names = [layer.name for layer in find_layers(as_ir(vit()).graph)]
    plan = plan_for(names, weight_bits=8)
    float8, integer = TARGETS["tensorrt-fp8"], TARGETS["onnxruntime-x86-vnni"]
    for made, wanted in ((float8, integer), (integer, float8)):
        rounded = convert_model(with_facts(vit()), plan, target=made).parameters
        weights = {name: numbers.weight for name, numbers in rounded.items()}
        found = convert_model(with_facts(vit()), plan, target=wanted, weights=weights).parameters
        assert {numbers.weight.grid == "e4m3" for numbers in found.values()} == {wanted.float8}


@pytest.mark.parametrize("packing", ["exact", "native"])
@pytest.mark.parametrize("bits", [5, 8])
def test_sizes_of_layers_are_read_from_the_scales_of_their_blocks(bits: int, packing: Packing) -> None:
    plan = plan_for(["fc"], weight_bits=bits, activation_bits=32)
    conversion = convert_model(with_facts(one_matmul(weights())), plan, target=CUDA, packing=packing)
    facts = layer_facts(as_ir(as_proto(conversion.model)))["fc"]
    assert (facts.outputs, facts.inputs) == (6, INPUTS)
