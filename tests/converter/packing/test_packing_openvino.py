"""Files for OpenVINO there: which kernel multiplies, and whether it computes what the file says."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from lampq_onnx.artifacts import ChannelWidths
from lampq_onnx.converter import convert_model
from lampq_onnx.quantization import Grid, QuantizedWeight
from lampq_onnx.runtime import cpu_flags
from lampq_onnx.targets import Packing, target_for
from tests.converter.graphs import Builder, as_ir, as_proto, one_matmul, plan_for, reference, run

openvino = pytest.importorskip("openvino", reason="needs lampq-onnx[openvino]")

HERE = target_for("openvino", platform.machine(), cpu_flags())


@pytest.mark.parametrize("widths", [(2, 3, 5), (1, 6, 7), (4, 8)])
def test_channels_of_several_widths_run_on_integers_too(widths: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(widths))
    rows = rng.choice([bits for bits in widths if bits < 8 or HERE.signed_8bit_exact], 48)
    if len(set(rows)) < 2:
        pytest.skip("8-bit weights have another form on this CPU")
    mix = ChannelWidths.from_rows(rows)
    plan = plan_for(["fc"], weight_bits=mix.widest, low=-3.0, high=2.5)
    plan = plan.with_channel_widths({"fc": mix})
    matrix = rng.normal(size=(70, 48)).astype(np.float32)
    file = as_proto(convert_model(as_ir(one_matmul(matrix)), plan, packing="exact", target=HERE).model)
    compiled = openvino.Core().compile_model(
        openvino.Core().read_model(file.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    x = rng.uniform(-3, 2.5, (7, 3, 70)).astype(np.float32)
    found, wanted = compiled(x)[0], reference(file, x)
    assert np.linalg.norm(found - wanted) <= 1e-5 * np.linalg.norm(wanted)
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    kinds = [fact["layerType"].astype(str) for fact in facts]
    assert "TopK" not in kinds
    (kernel,) = [f["primitiveType"].astype(str) for f in facts if f["layerType"].astype(str) == "FullyConnected"]
    assert kernel.endswith("_I8")


@pytest.mark.parametrize("rows", [None, (2, 3, 7)])
def test_queries_keys_and_values_are_products_of_integers(rows: tuple[int, ...] | None) -> None:
    rng = np.random.default_rng(0)
    mix = None if rows is None else ChannelWidths.from_rows(rng.choice(rows, 96))
    plan = plan_for(["fc"], weight_bits=7 if mix is None else mix.widest, low=-3.0, high=2.5)
    plan = plan if mix is None else plan.with_channel_widths({"fc": mix})
    b = Builder(0)
    y = b.op("Add", b.op("MatMul", "x", b.random("fc.weight", 32, 96), name="mm"), b.random("fc.bias", 96))
    y = b.op("Transpose", b.op("Reshape", y, b.ints(-1, 5, 3, 4, 8)), perm=[2, 0, 3, 1, 4])
    q, k, v = (b.op("Gather", y, b.constant(f"i{part}", part, np.int64), axis=0) for part in range(3))
    scores = b.op("Softmax", b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    b.rename(b.op("MatMul", scores, v), "y")
    done = convert_model(as_ir(b.model({"x": ["n", 5, 32]}, {"y": None})), plan, packing="exact", target=HERE)
    assert done.passes["ProductPerPart"] == 1
    file = as_proto(done.model)
    compiled = openvino.Core().compile_model(
        openvino.Core().read_model(file.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    x = rng.uniform(-3, 2.5, (7, 5, 32)).astype(np.float32)
    found, wanted = compiled(x)[0], run(file, x)
    assert np.linalg.norm(found - wanted) <= 1e-5 * np.linalg.norm(wanted)
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    kernels = [f["primitiveType"].astype(str) for f in facts if f["layerType"].astype(str) == "FullyConnected"]
    assert len(kernels) == 3
    assert all(kernel.endswith("_I8") for kernel in kernels)


@pytest.mark.parametrize("activation_bits", [8, 32])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("packing", HERE.packings)
def test_products_are_exact_and_of_integers(packing: Packing, bits: int, activation_bits: int) -> None:
    """OpenVINO rounds the inputs of weights in other forms to 8 bits anew; only bfloat16 is switched off here."""
    core = openvino.Core()
    for grid in [Grid.MID_TREAD] * (bits > 1) + [Grid.MID_RISE] * (bits <= 4):
        codes = np.random.default_rng(bits).integers(0, 2**bits, (48, 70)).astype(np.uint8)
        codes[:2] = [[2**bits - 1], [0]]
        weight = QuantizedWeight(codes, np.full(48, 0.1, np.float32), bits, grid)
        model = as_ir(one_matmul(weight.dequantize().T))
        plan = plan_for(["fc"], weight_bits=bits, activation_bits=activation_bits, low=-3.0, high=2.5)
        file = as_proto(convert_model(model, plan, packing=packing, target=HERE, weights={"fc": weight}).model)
        network = core.read_model(file.SerializeToString())
        compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        x = np.random.default_rng(1).uniform(-3, 2.5, (7, 3, 70)).astype(np.float32)
        x[0] = 2.5  # the largest products: without VNNI, those of 8-bit weights do not fit in 16 bits
        found, wanted = compiled(x)[0], reference(file, x)
        assert np.linalg.norm(found - wanted) <= 1e-5 * np.linalg.norm(wanted)
        facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
        kinds = ("FullyConnected", "MatMul")
        (kernel,) = [f["primitiveType"].astype(str) for f in facts if f["layerType"].astype(str) in kinds]
        fits = bits < 8 or HERE.signed_8bit_exact
        assert kernel.endswith("_I8") == (activation_bits == 8 and fits)
