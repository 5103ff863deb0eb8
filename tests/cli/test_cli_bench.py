"""`bench`: a file on this CPU, and a kit that another device runs without this package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from lampq_onnx.cli.main import app
from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.converter import convert_model
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.model_file import save_model
from lampq_onnx.targets import TARGETS
from lampq_onnx.workflow.device import bench
from tests.converter.graphs import as_ir, plan_for, vit


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """float.onnx and model.onnx of a tiny transformer; the head is in float."""
    folder = tmp_path_factory.mktemp("bench")
    model = vit()
    onnx.save(model, folder / "float.onnx")
    names = [layer.name for layer in find_layers(as_ir(model).graph) if layer.name != "head"]
    plan = plan_for(names, weight_bits=4)
    save_model(convert_model(as_ir(model), plan, target=TARGETS["onnxruntime-arm64"]).model, folder / "model.onnx")
    return folder


def said(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "400"})
    assert done.exit_code == 0, done.output
    return done.output


def test_a_row_for_this_machine(files: Path) -> None:
    row = json.loads(said("bench", files / "model.onnx", "--json", "--latency-runs", 2))
    assert len(row["layers"]) == 9
    assert all(layer["kernel"] == "MatMulIntegerToFloat" and layer["error"] < 1e-5 for layer in row["layers"].values())
    assert row["same"] is None
    assert row["ms"]["float"] > 0
    low, middle, high = row["ms"]["ratio"]
    assert low <= middle <= high
    text = said("bench", files / "model.onnx", "--latency-runs", 0)
    assert "9 of 9 layers on integer kernels | 9 of 9 exact" in text
    assert "never timed" in text


def test_a_kit_runs_with_only_onnxruntime_and_numpy_and_finds_what_differs(files: Path, tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    assert "copy it to the device" in said("bench", files / "model.onnx", "--kit", kit)
    code = (
        "import runpy, sys; sys.argv = ['bench.py', '--runs', '0']; runpy.run_path('bench.py', run_name='__main__'); "
        "print(sorted({'torch', 'onnx', 'onnx_ir', 'pydantic', 'lampq_onnx'} & set(sys.modules)))"
    )

    def printed() -> list[str]:
        done = subprocess.run([sys.executable, "-c", code], cwd=kit, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    row, modules = printed()
    assert modules == "[]"
    assert "9 of 9 exact" in row
    values = dict(np.load(kit / "layer3.npz"))
    np.savez(kit / "layer3.npz", input=values["input"], result=1.01 * values["result"])
    names = json.loads((kit / "kit.json").read_text())["layers"]
    row, wrong, _ = printed()
    assert "8 of 9 exact, worst 9.9e-03" in row
    assert wrong == f"not exact: {names[3]}, 9.9e-03, MatMulIntegerToFloat"


def test_what_is_refused(files: Path, tmp_path: Path) -> None:
    with pytest.raises(LampqError, match="there is no float file"):
        bench(files / "model.onnx", ImageOptions(), reference=tmp_path / "no")
    with pytest.raises(LampqError, match="has no quantized layers"):
        bench(files / "float.onnx", ImageOptions())
