"""Kits for other CPUs: what the program for OpenVINO says of one, here."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from lampq_onnx.converter import inspect_model
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.runtime import cpu_flags
from lampq_onnx.targets import TARGETS, target_for
from tests.trust.case import make_good
from tools.bench import arm64
from tools.bench.targets.case import given


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("openvino", reason="needs lampq-onnx[openvino]")
    folder = tmp_path_factory.mktemp("kits")
    good = make_good(folder)
    case = given(good.float, good.images, good.images, folder, 8)
    target = target_for("openvino", "x86_64", cpu_flags())
    made = case.file(target, 4, 8)
    (folder / "float.onnx").write_bytes(case.float_file.read_bytes())
    arm64.make_kit(made, good.images, folder / "kit", "openvino")
    return folder / "kit"


def test_openvino_is_exact_on_every_layer_of_a_kit(kit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tools.bench import openvino_kit

    found = openvino_kit.measure(kit)
    layers = [layer.name for layer in inspect_model(load_model(kit / "model.onnx"))]
    assert list(found["layers"]) == layers
    assert max(layer["error"] for layer in found["layers"].values()) < 1e-5
    assert arm64.integer_layers(found) == len(layers)
    assert found["images"] > 0
    arm64.print_row(Path("a.onnx"), arm64.CPUS[0], found)
    assert f"| {len(layers)} of {len(layers)} |" in capsys.readouterr().out


def test_a_wrong_layer_is_seen(kit: Path, tmp_path: Path) -> None:
    from tools.bench import openvino_kit

    shutil.copytree(kit, tmp_path / "kit")
    values = dict(np.load(tmp_path / "kit" / "layer0.npz"))
    values["result"] = values["result"] * 1.1
    np.savez(tmp_path / "kit" / "layer0.npz", **values)
    found = openvino_kit.measure(tmp_path / "kit")
    assert next(iter(found["layers"].values()))["error"] > arm64.BOUND


def test_both_targets_of_arm64_are_emulated() -> None:
    runners = {target.runner for target in TARGETS.values() if target.name.endswith("arm64")}
    assert runners == {"onnxruntime", "openvino"}
