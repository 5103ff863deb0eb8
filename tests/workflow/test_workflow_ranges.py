"""Ranges that `convert --calibration` measures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lampq_onnx.artifacts import BitPlan, LayerPlan
from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.data import Preprocessing
from lampq_onnx.graph.metadata import write_metadata
from lampq_onnx.graph.model_file import load_model, save_model
from lampq_onnx.targets import TARGETS
from lampq_onnx.workflow.ranges import with_measured_ranges
from tests.converter.graphs import Builder, as_ir


def test_a_layer_may_read_a_constant(tmp_path: Path) -> None:
    """As the projection of XCiT's positions does."""
    b = Builder(0)
    places = b.op("MatMul", b.random("places", 1, 12, 5), b.random("fixed.weight", 5, 4), name="f")
    y = b.op("Transpose", b.op("Reshape", "images", b.ints(-1, 3, 12)), perm=[0, 2, 1])
    y = b.op("MatMul", y, b.random("fc.weight", 3, 4), name="m")
    b.rename(b.op("Add", y, places), "y")
    path = tmp_path / "float.onnx"
    model = as_ir(b.model({"images": ["n", 3, 3, 4]}, {"y": ["n", 12, 4]}))
    preparation = Preprocessing(
        size=(3, 4),
        crop_pct=1.0,
        crop_mode="center",
        interpolation="bilinear",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        channels=3,
    )
    write_metadata(model, "toy", preparation, 4)
    save_model(model, path)
    np.savez(tmp_path / "images.npz", images=np.random.default_rng(0).integers(0, 256, (4, 3, 4, 3)).astype(np.uint8))
    images = ImageOptions(calibration=tmp_path / "images.npz")
    plan = BitPlan(layers=dict.fromkeys(("fixed", "fc"), LayerPlan(weight_bits=8, activation_bits=8)))
    target = TARGETS["onnxruntime-arm64"]
    found = with_measured_ranges(load_model(path), path, plan, images, target, threads=1).layers
    interval = found["fixed"].activation_range
    assert interval is not None
    places_read = b.constants["places"]
    assert interval.low == pytest.approx(float(places_read.min()))
    assert interval.high == pytest.approx(float(places_read.max()))
    assert found["fc"].activation_range is not None
