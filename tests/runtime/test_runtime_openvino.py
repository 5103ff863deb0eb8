"""OpenVINO as a runtime: the same answers, its own word on kernels, and commands that use it."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from lampq_onnx.artifacts import BitPlan, LatencyTable, Report
from lampq_onnx.cli.main import app
from lampq_onnx.converter import convert_model, inspect_model
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.graph.model_file import load_model, save_model
from lampq_onnx.runtime import cpu_flags, layer_errors, open_runner
from lampq_onnx.runtime.engine import ONNXRUNTIME, Engine, engine_for
from lampq_onnx.runtime.explain import explain_file
from lampq_onnx.runtime.fidelity import cut_layers, on_levels
from lampq_onnx.runtime.operators import operator_times
from lampq_onnx.runtime.runtimes import described, in_float32, runtime_of
from lampq_onnx.runtime.sessions import open_session
from lampq_onnx.targets import RUNNERS, TARGETS, target_for
from tests.converter.graphs import SIDE, as_ir, plan_for, vit
from tests.trust.case import make_good

pytest.importorskip("openvino", reason="needs lampq-onnx[openvino]")

HERE = target_for("openvino", platform.machine(), cpu_flags())
OPENVINO = Engine("openvino", "f32")
LAYERS = [
    "patch_embed.proj",
    *(f"blocks.{i}.{part}" for i in range(2) for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")),
    "head",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """float.onnx, and model.onnx for OpenVINO with 4 bits and one layer with float inputs."""
    place = tmp_path_factory.mktemp("openvino")
    onnx.save(vit(), place / "float.onnx")
    plan = plan_for(LAYERS, weight_bits=4)
    wide = plan.layers["blocks.1.mlp.fc2"].model_copy(update={"activation_bits": 32, "activation_range": None})
    plan = plan.model_copy(update={"layers": {**plan.layers, "blocks.1.mlp.fc2": wide}})
    save_model(convert_model(as_ir(vit()), plan, target=HERE).model, place / "model.onnx")
    return place


def images(count: int = 4) -> np.ndarray:
    return np.random.default_rng(9).normal(size=(count, 3, SIDE, SIDE)).astype(np.float32)


def test_it_answers_as_the_plain_arithmetic_of_the_file(folder: Path) -> None:
    for name in ("float.onnx", "model.onnx"):
        here = open_runner(folder / name, threads=1, engine=OPENVINO)
        plain = open_runner(folder / name, threads=1, optimize=False)
        assert (here.input, here.outputs, here.fixed_batch) == (plain.input, plain.outputs, plain.fixed_batch)
        np.testing.assert_allclose(here(images()), plain(images()), rtol=1e-4, atol=1e-5)


def test_layers_are_compared_with_their_arithmetic(folder: Path) -> None:
    layers = inspect_model(load_model(folder / "model.onnx"))
    errors = layer_errors(folder / "model.onnx", layers, images(), threads=1, engine=Engine("openvino"))
    assert list(errors) == LAYERS
    assert max(errors.values()) < 1e-5


def test_values_between_two_levels_are_no_error(folder: Path) -> None:
    """The input of every layer lies on halves: each runtime may round them up or down."""
    path = folder / "model.onnx"
    layers = [layer for layer in inspect_model(load_model(path)) if layer.name == "patch_embed.proj"]
    ((piece, values),) = cut_layers(path, layers, images(), threads=1)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in piece.graph.initializer}
    scale = constants["patch_embed.proj.input.scale"]
    halves = ((np.rint(values / scale) + 0.5) * scale).astype(np.float32)
    levels = on_levels(piece, layers[0].input, halves)
    assert 0 < np.abs(levels - halves).max() <= 0.501 * scale
    np.testing.assert_allclose(on_levels(piece, layers[0].input, levels), levels, rtol=0, atol=0)
    found = [
        open_session(piece.SerializeToString(), threads=1, optimize=plain, engine=engine).run(
            None, {layers[0].input: levels}
        )
        for plain, engine in ((True, OPENVINO), (False, ONNXRUNTIME))
    ]
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-4, atol=1e-5)


def test_explain_takes_its_word_for_the_kernels(folder: Path) -> None:
    found = explain_file(folder / "model.onnx", images(), threads=1, runs=2, engine=Engine("openvino"))
    kernels = {layer.name: layer for layer in found.layers}
    assert list(kernels) == LAYERS
    for name, layer in kernels.items():
        assert layer.integer == (name != "blocks.1.mlp.fc2"), layer
        assert layer.kernel.endswith("_I8") == layer.integer
        assert layer.microseconds > 0
    assert kernels["blocks.1.mlp.fc2"].reason == "its input is not quantized"
    assert found.total_microseconds == pytest.approx(sum(found.operators.values()))
    assert found.runtime == described(Engine("openvino"))
    float_file = explain_file(folder / "float.onnx", images(), threads=1, runs=2, engine=OPENVINO)
    assert {layer.reason for layer in float_file.layers} == {"its weights are in float in the file"}


def test_operators_are_timed_in_both_files(folder: Path) -> None:
    times = operator_times(folder / "float.onnx", folder / "model.onnx", images(), threads=1, runs=2, engine=OPENVINO)
    rows = {row.operator: row for row in times.operators}
    assert rows["FullyConnected"].quantized_nodes == len(LAYERS) + 2 * 2  # products for queries, keys and values
    assert rows["FullyConnected"].quantized_ms > 0


def test_the_runtime_follows_the_target_unless_one_is_given() -> None:
    assert engine_for("auto", "auto", HERE.name) == Engine("openvino")
    assert engine_for("auto", "auto", "onnxruntime-x86-vnni") == ONNXRUNTIME
    assert engine_for("auto", "auto", "tensorrt") == engine_for("auto", "auto", "of another tool") == ONNXRUNTIME
    assert engine_for("auto", "auto", "onnxruntime-cuda") == Engine("onnxruntime", "f32")
    assert engine_for("openvino", "bf16", "tensorrt") == Engine("openvino", "bf16")
    with pytest.raises(UsageError, match="onnxruntime computes in float32 on CPUs, not in bf16"):
        engine_for("onnxruntime", "bf16", HERE.name)
    assert all(target.runner is None or target.runner in RUNNERS for target in TARGETS.values())
    for name in RUNNERS:
        assert runtime_of(name).version()[0].isdigit()


def test_its_arithmetic_is_stated() -> None:
    assert described(Engine("openvino", "bf16")).endswith("(bfloat16 beside integers)")
    assert in_float32(OPENVINO)
    default = described(Engine("openvino"))
    assert default.startswith("OpenVINO 20")
    assert default.endswith("beside integers, its default on this CPU)")
    assert described(ONNXRUNTIME).endswith("(float32 beside integers)")


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(LampqError, match="the runtime OpenVINO is not installed") as caught:
        open_runner(folder / "model.onnx", threads=1, engine=OPENVINO)
    assert "lampq-onnx[openvino]" in (caught.value.hint or "")


def said(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "400"})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_probe_times_the_forms_there(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMPQ_ONNX_CACHE", str(tmp_path / "cache"))
    output = tmp_path / "latency.json"
    said("probe", folder / "float.onnx", "--runtime", "openvino", "--rounds", 5, "-o", output)
    table = LatencyTable.load(output)
    assert table.target == HERE.name
    assert table.runtime == described(Engine("openvino"))
    forms = {(time.weight_bits, time.activation_bits) for time in table.times}
    assert all(16 not in inputs for _, inputs in forms)  # it has no kernel for them


def test_explain_prints_the_runtime(folder: Path) -> None:
    found = json.loads(said("explain", folder / "model.onnx", "--runs", 1, "--json"))
    assert found["runtime"] == described(Engine("openvino"))
    other = json.loads(said("explain", folder / "model.onnx", "--runs", 1, "--json", "--runtime", "onnxruntime"))
    assert other["runtime"] == described(ONNXRUNTIME)


def test_validate_measures_there(tmp_path: Path) -> None:
    good = make_good(tmp_path)
    out = tmp_path / "report.json"
    plan = BitPlan.load(good.plan)
    save_model(convert_model(load_model(good.float), plan, target=HERE).model, tmp_path / "there.onnx")
    words = [*good.validate(model=tmp_path / "there.onnx")[:-1], out]
    said(*words)
    report = Report.load(out)
    count = f"runs {len(plan.layers)} of {len(plan.layers)} quantized layers on integer kernels"
    assert any(note.endswith(count) for note in report.notes), report.notes
    assert report.environment.runtime == described(Engine("openvino"))
    assert report.environment.target == HERE.name
    assert report.fidelity.layer_max is not None
    assert report.fidelity.layer_max < 1e-5
    assert report.details is not None
    assert report.details.operators is not None
    assert "FullyConnected" in {row.operator for row in report.details.operators.operators}
    said(*words, "--runtime", "onnxruntime", "--overwrite")
    other = Report.load(out)
    assert other.environment.runtime == described(ONNXRUNTIME)
    assert other.fidelity.excess_error == pytest.approx(report.fidelity.excess_error, abs=0.02)
