"""What is explained of a float16 file, whose tensors onnxruntime renames on a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lampq_onnx.converter import convert_model
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.model_file import save_model
from lampq_onnx.runtime.engine import engine_for
from lampq_onnx.runtime.explain import explain_file
from lampq_onnx.targets import TARGETS
from tests.converter.graphs import measured, plan_on, vit


def test_every_layer_is_found_and_its_kernel_does_not_round_its_input(tmp_path: Path) -> None:
    target = TARGETS["onnxruntime-cuda"]
    names = [layer.name for layer in find_layers(measured(vit()).graph)]
    path = tmp_path / "model.onnx"
    plan = plan_on(target, names, 4)
    save_model(convert_model(measured(vit()), plan, target=target, packing="native").model, path)
    images = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    layers = explain_file(path, images, threads=1, runs=1, engine=engine_for("auto", "auto", target.name)).layers
    assert {layer.name: layer.kernel for layer in layers} == dict.fromkeys(names, "MatMulNBits")
    assert {layer.reason for layer in layers} == {"its input is not quantized"}
