from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan
from lampq_onnx.converter import convert_model, inspect_model
from lampq_onnx.converter.convert import check_file
from lampq_onnx.converter.embedded import embedded_plan
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.graph.keys import PLAN_KEY
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.model_file import file_bytes, load_model, save_model
from lampq_onnx.targets import PACKINGS, TARGETS, target_for
from tests.converter.graphs import (
    LEVELS,
    Builder,
    as_ir,
    as_proto,
    constants,
    node_of,
    one_matmul,
    plan_for,
    reference,
    run,
    session,
    vit,
)

AVX2, VNNI = TARGETS["onnxruntime-x86-avx2"], TARGETS["onnxruntime-x86-vnni"]
NAMES = [
    "patch_embed.proj",
    *(f"blocks.{i}.{part}" for i in range(2) for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")),
    "head",
]


def images(count: int = 5) -> np.ndarray:
    return np.random.default_rng(9).normal(size=(count, 3, 4, 4)).astype(np.float32)


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("bits", [1, 2, 3, 5, 7, 8])
def test_a_whole_transformer(bits: int, packing: str) -> None:
    float_model = vit(linear="gemm")
    conversion = convert_model(as_ir(float_model), plan_for(NAMES, weight_bits=bits), packing=packing, target=AVX2)
    model = as_proto(conversion.model)
    plain = run(model, images())
    assert distance(reference(model, images()), plain) < 1e-4
    for level in LEVELS:
        assert distance(run(model, images(), level), plain) < 2e-2  # flips at rounding boundaries grow
    assert distance(plain, run(float_model, images())) < {8: 0.05, 7: 0.08, 5: 0.3}.get(bits, 3)
    assert set(conversion.stored) == set(NAMES)
    matrices = {n: a.shape for n, a in constants(model).items() if a.dtype == np.float32 and a.ndim > 1}
    assert set(matrices) == {"pos_embed"}


def test_names_and_the_symbolic_batch_are_kept() -> None:
    float_model = vit()
    model = as_proto(convert_model(as_ir(float_model), plan_for(NAMES), target=AVX2).model)
    for before, after in zip(
        (*float_model.graph.input, *float_model.graph.output), (*model.graph.input, *model.graph.output), strict=True
    ):
        assert after.name == before.name
        assert after.type == before.type
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    for count in (1, 2, 7):
        assert run(model, images(count), LEVELS[-1]).shape == (count, 5)


@pytest.mark.parametrize("last", ["MatMul", "Gemm", "Conv"])
def test_a_layer_that_is_the_output_keeps_its_name(last: str) -> None:
    b = Builder()
    if last == "Conv":
        b.rename(b.op("Conv", "x", b.random("fc.weight", 4, 3, 2, 2), strides=[2, 2], kernel_shape=[2, 2]), "answer")
        float_model = b.model({"x": ["n", 3, 4, 4]}, {"answer": ["n", 4, 2, 2]})
        x = images()
    else:
        b.rename(b.op(last, "x", b.random("fc.weight", 6, 4)), "answer")
        float_model = b.model({"x": ["n", 6]}, {"answer": ["n", 4]})
        x = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    model = as_proto(convert_model(as_ir(float_model), plan_for(["fc"]), target=AVX2).model)
    assert [o.name for o in model.graph.output] == ["answer"]
    assert model.graph.output[0].type == float_model.graph.output[0].type
    assert distance(run(model, x), run(float_model, x)) < 0.03


def test_layers_at_32_bits_stay_float() -> None:
    float_model = vit()
    plan = plan_for(NAMES, weight_bits=4)
    layers = plan.layers | dict.fromkeys(NAMES[1:9], LayerPlan(weight_bits=32, activation_bits=32))
    conversion = convert_model(as_ir(float_model), BitPlan(layers=layers), target=AVX2)
    model = as_proto(conversion.model)
    assert set(conversion.stored) == {"patch_embed.proj", "head"}
    for name in NAMES[1:9]:
        np.testing.assert_array_equal(constants(model)[f"{name}.weight"], constants(float_model)[f"{name}.weight"])
        assert node_of(model, f"/{name}").input[1] == f"{name}.weight"
    assert "head.weight" not in constants(model)
    assert {layer.name for layer in inspect_model(conversion.model)} == {"patch_embed.proj", "head"}


def test_a_plan_of_floats_changes_nothing() -> None:
    float_model = vit()
    plan = BitPlan(layers=dict.fromkeys(NAMES, LayerPlan(weight_bits=32, activation_bits=32)))
    model = as_proto(convert_model(as_ir(float_model), plan, target=AVX2).model)
    np.testing.assert_array_equal(run(model, images()), run(float_model, images()))


def test_a_layer_outside_the_plan_stays_float() -> None:
    conversion = convert_model(as_ir(vit()), plan_for(NAMES[:2]), target=AVX2)
    assert set(conversion.stored) == set(NAMES[:2])


def test_unknown_layers() -> None:
    with pytest.raises(
        LampqError, match=r"2 layer\(s\) that the model does not have: blocks\.7\.attn\.qkv, tail"
    ) as raised:
        convert_model(as_ir(vit()), plan_for([*NAMES, "blocks.7.attn.qkv", "tail"]), target=AVX2)
    assert "patch_embed.proj, blocks.0.attn.qkv" in raised.value.hint
    assert raised.value.hint.endswith(", ...")


def test_a_plan_of_another_model() -> None:
    plan = plan_for(NAMES)
    layers = plan.layers | {"head": plan.layers["head"].model_copy(update={"parameters": 41})}
    with pytest.raises(LampqError, match="layer head has 40 weights in the model and 41 in the plan"):
        convert_model(as_ir(vit()), BitPlan(layers=layers), target=AVX2)
    right = plan.layers | {"head": plan.layers["head"].model_copy(update={"parameters": 40})}
    convert_model(as_ir(vit()), BitPlan(layers=right), target=AVX2)


def test_a_missing_range() -> None:
    plan = plan_for(NAMES)
    bare = LayerPlan(weight_bits=4, activation_bits=8)
    with pytest.raises(LampqError, match=r"no activation_range for layer blocks\.1\.mlp\.fc1") as raised:
        convert_model(as_ir(vit()), BitPlan(layers=plan.layers | {"blocks.1.mlp.fc1": bare}), target=AVX2)
    assert "--calibration" in raised.value.hint


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite(bad: float) -> None:
    model = vit()
    tensor = next(t for t in model.graph.initializer if t.name == "blocks.1.attn.proj.weight")
    values = numpy_helper.to_array(tensor).copy()
    values[1, 1] = bad
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with pytest.raises(LampqError, match=r"layer blocks\.1\.attn\.proj cannot be quantized: .*NaN"):
        convert_model(as_ir(model), plan_for(NAMES), target=AVX2)


def test_half_precision_weights_are_refused() -> None:
    b = Builder()
    half = b.op("Cast", "x", to=TensorProto.FLOAT16)
    product = b.op("MatMul", half, b.constant("fc.weight", b.rng.normal(size=(6, 4)), np.float16))
    b.rename(b.op("Cast", product, to=TensorProto.FLOAT), "y")
    model = b.model({"x": ["n", 2, 6]}, {"y": ["n", 2, 4]})
    with pytest.raises(LampqError, match="layer fc has weights of type FLOAT16"):
        convert_model(as_ir(model), plan_for(["fc"]), target=AVX2)


def test_weights_that_are_listed_as_inputs_leave_the_file() -> None:
    matrix = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    float_model = one_matmul(matrix)
    float_model.graph.input.append(onnx.helper.make_tensor_value_info("fc.weight", TensorProto.FLOAT, [40, 30]))
    model = as_proto(convert_model(as_ir(float_model), plan_for(["fc"], weight_bits=2), target=AVX2).model)
    assert [value.name for value in model.graph.input] == ["x"]
    assert "fc.weight" not in constants(model)


def test_the_plan_is_in_the_file(tmp_path: Path) -> None:
    plan = plan_for(NAMES, weight_bits=3)
    conversion = convert_model(as_ir(vit()), plan, target=VNNI)
    save_model(conversion.model, tmp_path / "q.onnx")
    check_file(tmp_path / "q.onnx")
    again = load_model(tmp_path / "q.onnx")
    assert embedded_plan(again, tmp_path / "q.onnx") == plan
    assert again.metadata_props["lampq_onnx.target"] == "onnxruntime-x86-vnni"
    float_path = _saved(vit(), tmp_path / "float.onnx")
    assert embedded_plan(load_model(float_path), float_path) is None
    again.metadata_props[PLAN_KEY] = "{}"
    with pytest.raises(LampqError, match="damaged"):
        embedded_plan(again, tmp_path / "q.onnx")
    assert file_bytes(tmp_path / "q.onnx") == (tmp_path / "q.onnx").stat().st_size


def test_the_result_does_not_depend_on_the_run() -> None:
    first, second = (
        as_proto(convert_model(as_ir(vit()), plan_for(NAMES, weight_bits=3), target=AVX2).model).SerializeToString()
        for _ in range(2)
    )
    assert first == second


def test_auto_takes_the_targets_storage() -> None:
    plan = plan_for(["fc"], weight_bits=3)
    conversion = convert_model(as_ir(one_matmul(np.eye(8, dtype=np.float32))), plan, target=VNNI)
    assert conversion.stored["fc"].storage == VNNI.packing == "exact"


def _saved(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def test_check_file_says_what_is_wrong(tmp_path: Path) -> None:
    model = vit()
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(LampqError, match=r"bad\.onnx fails onnx's check"):
        check_file(_saved(model, tmp_path / "bad.onnx"))


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a"])
def test_files_that_are_no_models(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(LampqError, match=r"bad\.onnx"):
        load_model(path)
    with pytest.raises(LampqError, match="no such ONNX file"):
        load_model(tmp_path / "absent.onnx")


def test_truncated_files(tmp_path: Path) -> None:
    path = _saved(vit(), tmp_path / "cut.onnx")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(LampqError, match=r"cut\.onnx"):
        load_model(path)


def test_external_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lampq_onnx.graph import model_file

    monkeypatch.setattr(model_file, "PROTOBUF_LIMIT", 1000)
    model = as_ir(one_matmul(np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)))
    path = tmp_path / "big.onnx"
    save_model(model, path)
    data = tmp_path / "big.onnx.data"
    assert data.is_file()
    assert file_bytes(path) == path.stat().st_size + data.stat().st_size
    conversion = convert_model(load_model(path), plan_for(["fc"], weight_bits=4), target=AVX2)
    session(as_proto(conversion.model))
    data.unlink()
    with pytest.raises(LampqError, match=r"big\.onnx cannot be read"):
        load_model(path)


@pytest.mark.parametrize(
    ("machine", "flags", "name", "signed"),
    [
        ("x86_64", ["avx2"], "onnxruntime-x86-avx2", False),
        ("AMD64", [], "onnxruntime-x86-avx2", False),
        ("x86_64", ["avx2", "avx512_vnni"], "onnxruntime-x86-vnni", True),
        ("x86_64", ["avx_vnni"], "onnxruntime-x86-vnni", True),
        ("aarch64", ["asimddp"], "onnxruntime-arm64", True),
        ("arm64", [], "onnxruntime-arm64", True),
        ("ARM64", [], "onnxruntime-arm64", True),
    ],
)
def test_auto_reads_the_machine(machine: str, flags: list[str], name: str, signed: bool) -> None:
    target = target_for("auto", machine, flags)
    assert target.name == name
    assert target.signed_8bit_exact is signed
    assert target_for(name, "x86_64", []) is target


def test_unknown_targets() -> None:
    with pytest.raises(UsageError, match="tpu") as raised:
        target_for("tpu", "x86_64", [])
    assert "onnxruntime-x86-avx2" in raised.value.hint


# inspection


@pytest.mark.parametrize("linear", ["matmul", "gemm"])
@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("target", [AVX2, VNNI], ids=["avx2", "vnni"])
def test_inspection_reads_what_was_written(tmp_path: Path, packing: str, target: object, linear: str) -> None:
    float_model = vit(linear=linear)
    sizes = {graph_layer.name: graph_layer.matrix().size for graph_layer in find_layers(as_ir(float_model).graph)}
    kinds = {graph_layer.name: graph_layer.type for graph_layer in find_layers(as_ir(float_model).graph)}
    widths = dict(zip(NAMES, [8, 1, 2, 3, 4, 5, 6, 7, 8, 3], strict=True))
    activation = dict(zip(NAMES, [8, 8, 4, 8, 6, 8, 2, 8, 8, 3], strict=True))
    interval = ActivationRange(low=-3, high=3)
    layers = {
        name: LayerPlan(weight_bits=widths[name], activation_bits=activation[name], activation_range=interval)
        for name in NAMES
    }
    conversion = convert_model(as_ir(float_model), BitPlan(layers=layers), packing=packing, target=target)
    save_model(conversion.model, tmp_path / "q.onnx")
    found = inspect_model(load_model(tmp_path / "q.onnx"))
    assert [layer.name for layer in found] == NAMES
    values = {name for node in as_proto(conversion.model).graph.node for name in (*node.input, *node.output)}
    for layer in found:
        bits = widths[layer.name]
        stored = conversion.stored[layer.name]
        assert layer.type == kinds[layer.name]
        assert layer.weight_bits == bits
        assert layer.activation_bits == activation[layer.name]
        assert layer.parameters == sizes[layer.name]
        assert layer.storage == stored.storage
        assert layer.bytes == stored.bytes
        assert layer.scheme == conversion.parameters[layer.name].weight.grid.value
        assert layer.input in values
        assert set(layer.outputs) <= set(values)
        if packing == "exact" or bits == 8:
            assert layer.bytes == sizes[layer.name] * bits // 8  # all sizes are multiples of 8
    made_by = {name: node for node in as_proto(conversion.model).graph.node for name in node.output}
    moved = found[0].input
    while moved != "images":  # what only moves values stands before the quantization
        assert made_by[moved].op_type in {"Reshape", "Transpose"}
        moved = made_by[moved].input[0]


@pytest.mark.parametrize("per_channel", [False, True])
def test_inspection_of_another_tools_file(tmp_path: Path, per_channel: bool) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{"images": images(4)}, {"images": images(2)}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    float_model = vit(blocks=1)
    path = _saved(float_model, tmp_path / "float.onnx")
    quantize_static(
        path,
        tmp_path / "q.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=per_channel,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Conv"],
    )
    model = load_model(tmp_path / "q.onnx")
    layers = find_layers(as_ir(float_model).graph)
    found = {layer.name.strip("/").replace("/", "."): layer for layer in inspect_model(model)}
    assert set(found) == {graph_layer.name for graph_layer in layers}
    for graph_layer in layers:
        layer = found[graph_layer.name]
        assert (layer.weight_bits, layer.activation_bits) == (8, 8)
        assert layer.storage == "int8"
        assert layer.parameters == layer.bytes == graph_layer.matrix().size
        assert layer.scheme == ("per-channel" if per_channel else "per-tensor")
    assert found["patch_embed.proj"].input == "images"
    assert embedded_plan(model, Path("other.onnx")) is None


def test_nothing_to_inspect() -> None:
    assert inspect_model(as_ir(vit())) == []


def test_products_of_activations_are_no_layers() -> None:
    b = Builder()
    scale, zero = b.constant("scale", 0.1), b.constant("zero", 0, np.uint8)
    x = "x"
    for _ in range(40):  # 2^40 ways back to the input
        x = b.op("Add", x, x)
    left, right = (b.op("DequantizeLinear", b.op("QuantizeLinear", x, scale, zero), scale, zero) for _ in range(2))
    b.rename(b.op("MatMul", left, right), "y")
    assert inspect_model(as_ir(b.model({"x": [4, 4]}, {"y": [4, 4]}))) == []
