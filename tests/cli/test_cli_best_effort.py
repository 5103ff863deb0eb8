"""All stages of the best effort on the embedded default, with few steps each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import lampq_onnx
from lampq_onnx.artifacts import BitPlan
from lampq_onnx.frontend.models.digits import split_images
from lampq_onnx.frontend.rounding.effort import EFFORTS
from lampq_onnx.frontend.rounding.reconstruct import ReconstructSettings
from lampq_onnx.frontend.rounding.tune import TuneSettings
from lampq_onnx.graph.metadata import read_metadata


def test_the_best_effort_on_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(
        EFFORTS["best"],
        reconstruct=ReconstructSettings(steps=4, batch_size=8),
        tune=TuneSettings(steps=12, batch_size=8, warmup=2),
    )
    monkeypatch.setitem(EFFORTS, "best", few)
    report = lampq_onnx.quantize(
        "digits", tmp_path, bits=3, activation_bits="mixed", activation_budget=7, effort="best", calibration_size=48,
        rounds=1, threads=1, latency_runs=1,
    )  # fmt: skip
    assert report.rounding is not None
    assert report.rounding.effort == "best"
    assert list(report.rounding.held_out_kl) == ["layers", "blocks", "tuned"]
    assert report.accuracy.quantized.top1 > report.accuracy.float_.top1 - 0.05
    assert report.fidelity.layer_max < 1e-3
    assert abs(report.fidelity.simulation_excess) < 0.05  # the tuned ranges and biases are in the file
    plan = BitPlan.load(tmp_path / "plan.json")
    assert plan.weight_average() <= 3
    assert plan.activation_average() <= 7 + 1e-9
    # Blocks and tuning change ranges; what was not kept leaves no trace.
    changed = any(layer.activation_range.method == "tuned" for layer in plan.layers.values() if layer.activation_range)
    assert changed == (report.rounding.kept["tuned"] or report.rounding.kept["blocks"])
    assert {"equalization", "costs", "input_costs", "block_reconstruction", "tuning"} <= set(report.seconds)
    # the file as onnxruntime computes it, against the float one
    pixels, labels = split_images("test")
    from PIL import Image

    from lampq_onnx.graph.model_file import load_model

    preprocessing = read_metadata(load_model(tmp_path / "float.onnx"), tmp_path / "float.onnx").preprocessing
    batch = preprocessing.normalize(np.stack([preprocessing.crop(Image.fromarray(i[..., 0])) for i in pixels]))
    found, exact = (
        ort.InferenceSession(str(tmp_path / name)).run(None, {"input": batch})[0]
        for name in ("model.onnx", "float.onnx")
    )
    assert report.accuracy.quantized.top1 == pytest.approx((found.argmax(1) == labels).mean(), abs=0.005)
    p, q = (np.exp(x - np.logaddexp.reduce(x, axis=1, keepdims=True)) for x in (exact.astype(float), found))
    assert report.accuracy.kl == pytest.approx(float((p * np.log(p / q)).sum(1).mean()), rel=0.1)
