"""Serving forms: written, then loaded or parsed by their own tools."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from typer.testing import CliRunner

from lampq_onnx.artifacts import BitPlan
from lampq_onnx.artifacts.gates import GateLimits
from lampq_onnx.cli.main import app
from lampq_onnx.converter import convert_model
from lampq_onnx.data import Preprocessing
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.graph.keys import TARGET_KEY
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.metadata import write_metadata
from lampq_onnx.graph.model_file import file_sha256, save_model
from lampq_onnx.serving.formats import package
from lampq_onnx.targets import TARGETS
from tests.converter.graphs import CLASSES, SIDE, as_ir, plan_for, vit
from tests.html.reports import accuracy, report
from tests.prepared import PreparedPython
from tests.serving.served import answers, preprocessing


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a quantized model.onnx."""
    path = tmp_path_factory.mktemp("out")
    model = as_ir(vit(blocks=1))
    plan = plan_for([layer.name for layer in find_layers(model.graph)], weight_bits=3)
    quantized = convert_model(model, plan, target=TARGETS["onnxruntime-x86-vnni"]).model
    write_metadata(quantized, "tiny.vit", preprocessing(), CLASSES)
    save_model(quantized, path / "model.onnx")
    return path


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 3, SIDE, SIDE)).astype(np.float32)


def test_ort_file_runs_and_its_operators_are_listed(folder: Path, images: np.ndarray, tmp_path: Path) -> None:
    packaged = package(folder, "ort", tmp_path / "mobile")
    assert (tmp_path / "mobile" / "tiny_vit.ort").read_bytes()[4:8] == b"ORTM"
    found = answers(tmp_path / "mobile" / "tiny_vit.ort", images)
    assert np.array_equal(found, answers(folder / "model.onnx", images))
    (config,) = (name for name in packaged.files if name.endswith(".config"))
    listed = (tmp_path / "mobile" / config).read_text(encoding="utf-8")
    assert "com.microsoft;1;" in listed
    assert "MatMulIntegerToFloat" in listed
    assert packaged.files["tiny_vit.ort"] == (tmp_path / "mobile" / "tiny_vit.ort").stat().st_size


def test_triton_repository_parses_and_serves_the_same_file(folder: Path, images: np.ndarray) -> None:
    model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs lampq-onnx[triton]")
    from google.protobuf import text_format

    packaged = package(folder, "triton")
    assert packaged.folder == folder / "triton"
    place = folder / "triton" / "tiny_vit"
    config = text_format.Parse((place / "config.pbtxt").read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    assert (config.name, config.backend) == (place.name, "onnxruntime")
    assert config.max_batch_size > 1
    assert config.HasField("dynamic_batching")
    served = place / "1" / "model.onnx"
    session = ort.InferenceSession(str(served), providers=["CPUExecutionProvider"])
    for entries, tensors in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [(e.name, list(e.dims)) for e in entries] == [(t.name, list(t.shape[1:])) for t in tensors]
        assert {model_config_pb2.DataType.Name(e.data_type) for e in entries} == {"TYPE_FP32"}
    assert np.array_equal(answers(served, images), answers(folder / "model.onnx", images))
    note = config.parameters["preprocessing"].string_value
    assert "0.5" in note
    assert note in (place / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("form", "place"), [("ort", ""), ("triton", "tiny_vit"), ("openvino-ir", "")])
def test_every_form_says_what_images_go_through(form: str, place: str, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip({"ort": "onnxruntime", "triton": "tritonclient.grpc", "openvino-ir": "openvino"}[form])
    model = ir.load(folder / "model.onnx")
    facts = preprocessing(
        interpolation="bilinear",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        channel_order="bgr",
        resize={"to": "shortest", "sides": (SIDE + 4,), "then": "crop"},
    )
    write_metadata(model, "tiny.vit", facts, CLASSES)
    save_model(model, tmp_path / "model.onnx")
    package(tmp_path / "model.onnx", form, tmp_path / "out")
    said = json.loads((tmp_path / "out" / place / "preprocessing.json").read_text(encoding="utf-8"))
    assert said.pop("description") == facts.describe()
    assert (said["channel_order"], said["rescale_factor"], said["rescale_offset"]) == ("bgr", 1 / 255, 0.0)
    assert Preprocessing.model_validate(said) == facts


@pytest.mark.parametrize(
    ("target", "kind"),
    [(None, "KIND_CPU"), ("onnxruntime-x86-vnni", "KIND_CPU"), ("onnxruntime-cuda", "KIND_GPU"), ("tensorrt", None)],
)
def test_the_server_runs_a_file_on_the_device_that_it_is_made_for(
    target: str | None, kind: str | None, folder: Path, tmp_path: Path
) -> None:
    model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs lampq-onnx[triton]")
    from google.protobuf import text_format

    model = ir.load(folder / "model.onnx")
    model.metadata_props.pop(TARGET_KEY, None)
    if target is not None:
        model.metadata_props[TARGET_KEY] = target
    save_model(model, tmp_path / "model.onnx")
    if kind is None:
        with pytest.raises(LampqError, match="is made for tensorrt") as caught:
            package(tmp_path / "model.onnx", "triton")
        assert "onnxruntime-cuda" in caught.value.hint
        return
    package(tmp_path / "model.onnx", "triton")
    place = tmp_path / "triton" / "tiny_vit"
    config = text_format.Parse((place / "config.pbtxt").read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    kinds = [model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind) for group in config.instance_group]
    assert kinds == [kind]
    other = "--target onnxruntime-cuda" if kind == "KIND_CPU" else "--target auto"
    assert other in (place / "README.md").read_text(encoding="utf-8")


def test_a_fixed_batch_is_not_batched_by_the_server(folder: Path, tmp_path: Path) -> None:
    model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs lampq-onnx[triton]")
    from google.protobuf import text_format

    model = onnx.load(folder / "model.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "fixed.onnx")
    package(tmp_path / "fixed.onnx", "triton")
    text = (tmp_path / "triton" / "tiny_vit" / "config.pbtxt").read_text(encoding="utf-8")
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [2, 3, SIDE, SIDE]
    assert not config.HasField("dynamic_batching")


def test_openvino_reads_its_format_back(
    folder: Path, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino = pytest.importorskip("openvino", reason="needs lampq-onnx[openvino]")
    telemetry = pytest.importorskip("openvino_telemetry")
    sent: list[object] = []
    monkeypatch.setattr(telemetry.Telemetry, "send_event", lambda *said, **_: sent.append(said))
    package(folder, "openvino-ir", tmp_path / "ir")
    assert not sent  # nobody is told
    core = openvino.Core()
    compiled = core.compile_model(tmp_path / "ir" / "tiny_vit.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found, wanted = compiled(images)[0], answers(folder / "model.onnx", images)
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
    direct = core.compile_model(folder / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert np.array_equal(found, direct(images)[0])
    options = json.loads((tmp_path / "ir" / "openvino.json").read_text(encoding="utf-8"))
    assert options == {"INFERENCE_PRECISION_HINT": "f32"}
    said = core.compile_model(tmp_path / "ir" / "tiny_vit.xml", "CPU", options)
    assert said.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert np.array_equal(said(images)[0], found)
    assert 'compile_model("tiny_vit.xml", "CPU", options)' in (tmp_path / "ir" / "README.md").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("runtime", "options"),
    [
        ("OpenVINO 2026.4.1 (bfloat16 beside integers, its default on this CPU)", {}),
        ("OpenVINO 2026.4.1 (float32 beside integers)", {"INFERENCE_PRECISION_HINT": "f32"}),
        ("onnxruntime 1.32.0 (float32 beside integers)", {"INFERENCE_PRECISION_HINT": "f32"}),
    ],
)
def test_openvino_computes_as_the_report_was_measured(
    runtime: str, options: dict, folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino", reason="needs lampq-onnx[openvino]")
    shutil.copy(folder / "model.onnx", tmp_path / "model.onnx")
    known = report()
    environment = known.environment.model_copy(update={"runtime": runtime})
    changes = {"environment": environment, "model_sha256": file_sha256(tmp_path / "model.onnx")}
    known.model_copy(update=changes).save(tmp_path / "report.json")
    package(tmp_path, "openvino-ir")
    assert json.loads((tmp_path / "openvino-ir" / "openvino.json").read_text(encoding="utf-8")) == options


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-fp8", "onnxruntime-qnn"])
@pytest.mark.parametrize("format_", ["ort", "openvino-ir", "transformers-js"])
def test_files_for_other_devices_are_not_packaged_for_cpus(
    target: str, format_: str, folder: Path, tmp_path: Path
) -> None:
    model = ir.load(folder / "model.onnx")
    model.metadata_props[TARGET_KEY] = target
    save_model(model, tmp_path / "model.onnx")
    with pytest.raises(LampqError, match=f"is made for {target}, which .* does not run"):
        package(tmp_path / "model.onnx", format_)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_shifts_without_masks_are_refused(tmp_path: Path) -> None:
    """Older versions wrote them, and OpenVINO rounds what they drop."""
    one = onnx.numpy_helper.from_array(np.ones(1, np.uint8), "one")
    shift = onnx.helper.make_node("BitShift", ["codes", "one"], ["y"], direction="RIGHT")
    shift.output[0] = "levels"
    scale = onnx.numpy_helper.from_array(np.array(0.5, np.float32), "scale")
    dequantize = onnx.helper.make_node("DequantizeLinear", ["levels", "scale"], ["y"])
    codes = onnx.helper.make_tensor_value_info("codes", onnx.TensorProto.UINT8, [8])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [8])
    graph = onnx.helper.make_graph([shift, dequantize], "old", [codes], [y], [one, scale])
    onnx.save(onnx.helper.make_model(graph, ir_version=10), tmp_path / "old.onnx")
    with pytest.raises(LampqError, match="older version") as error:
        package(tmp_path / "old.onnx", "openvino-ir", tmp_path / "ir")
    assert "--target openvino" in (error.value.hint or "")
    assert not (tmp_path / "ir").exists()


@pytest.mark.parametrize("target", ["onnxruntime-x86-vnni", "openvino-x86-vnni"])
def test_openvino_takes_every_width(target: str, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="needs lampq-onnx[openvino]")
    graph = vit(blocks=2)
    names = [layer.name for layer in find_layers(as_ir(graph).graph)]
    layers = {name: plan_for([name], weight_bits=1 + at % 8).layers[name] for at, name in enumerate(names)}
    converted = convert_model(as_ir(graph), BitPlan(layers=layers), target=TARGETS[target])
    save_model(converted.model, tmp_path / "model.onnx")
    package(tmp_path / "model.onnx", "openvino-ir", tmp_path / "ir")
    (xml,) = (tmp_path / "ir").glob("*.xml")
    core = openvino.Core()
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, SIDE, SIDE)).astype(np.float32)
    for path in (xml, tmp_path / "model.onnx"):
        found = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(images)[0]
        wanted = answers(tmp_path / "model.onnx", images)
        # Rounding flips of inputs grow through the layers.
        assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


def test_what_cannot_be_packaged_is_refused_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown format 'zip'"):
        package(folder, "zip", tmp_path / "a")
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        package(folder, "ort", tmp_path / "there")
    with pytest.raises(LampqError, match="no such ONNX file"):
        package(tmp_path, "ort", tmp_path / "b")
    model = onnx.load(folder / "model.onnx")
    model.graph.node[0].op_type, model.graph.node[0].domain = "NoSuchOperator", "com.example"
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(LampqError, match="cannot be written in onnxruntime's format"):
        package(tmp_path / "broken.onnx", "ort", tmp_path / "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.onnx", "there"]


def test_a_failing_file_is_not_packaged_in_silence(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "failed"
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("triton", "ort"))
    measured = report(
        model_sha256=file_sha256(place / "model.onnx"), limits=GateLimits(max_drop=0.1), accuracy=accuracy(0.7, 10.0)
    )
    measured.save(place / "report.json")
    (said,) = package(place, "ort").failed
    assert "top-1" in said
    shown = CliRunner().invoke(app, ["package", str(place), "--format", "triton"])
    assert shown.exit_code == 0
    assert f"FAIL: the report of {place} says: {said}" in shown.output
    report(model_sha256=file_sha256(place / "model.onnx")).save(place / "report.json")
    assert package(place, "ort", tmp_path / "passed").failed == ()


def test_the_log_of_the_converter_is_not_shown(folder: Path, tmp_path: Path, prepared: PreparedPython) -> None:
    command = [*prepared.command, "-m", "lampq_onnx", "package", str(folder), "--format", "ort"]
    done = subprocess.run([*command, "--output", str(tmp_path / "quiet")], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "INFO" not in done.stdout
