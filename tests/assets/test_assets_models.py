"""Real models and images, where they stand beside the checkout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from lampq_onnx import quantize
from lampq_onnx.data import choose, iter_batches, open_source
from lampq_onnx.frontend.models.export import export_model
from lampq_onnx.frontend.models.loading import load_timm
from lampq_onnx.graph.model_file import save_model

ASSETS = Path(__file__).parents[3] / "shared" / "assets"
CIFAR_ARGS = {
    "img_size": 32, "patch_size": 4, "num_classes": 10, "embed_dim": 128, "depth": 4, "num_heads": 4, "mlp_ratio": 2,
}  # fmt: skip

pytestmark = [
    pytest.mark.assets,
    pytest.mark.skipif(not ASSETS.is_dir(), reason=f"the measurement models are not at {ASSETS}"),
]


def test_deit_exports_as_the_model_that_timm_runs(tmp_path: Path) -> None:
    checkpoint = ASSETS / "weights" / "deit_tiny_patch16_224.safetensors"
    loaded = load_timm("deit_tiny_patch16_224", checkpoint=checkpoint)
    exported = export_model(loaded)
    assert len([layer for layer in exported.layers if not layer.fixed]) == 48
    save_model(exported.model, tmp_path / "float.onnx")
    source = choose(open_source(ASSETS / "imagenet_val650", num_classes=1000, need_labels=True), 24, 0)
    session = ort.InferenceSession(str(tmp_path / "float.onnx"))
    right = 0
    for batch in iter_batches(source, loaded.preprocessing, 8):
        logits = session.run(None, {"input": batch.images})[0]
        expected = loaded.module(torch.from_numpy(batch.images)).numpy()
        assert np.linalg.norm(logits - expected) < 1e-4 * np.linalg.norm(expected)
        right += int((logits.argmax(1) == batch.labels).sum())
    assert right >= 15  # about 80 % of 24; chance is one in a thousand


def test_the_cifar_model_keeps_its_accuracy_at_four_bits(tmp_path: Path) -> None:
    images = ASSETS / "cifar10_test2000"
    report = quantize(
        "vit_tiny_patch16_224",
        tmp_path / "out",
        checkpoint=ASSETS / "weights" / "cifar10_vit_d4_e128.safetensors",
        model_args=CIFAR_ARGS,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        calibration=images,
        validation=images,
        calibration_size=64,
        rounds=2,
        latency_runs=3,
        threads=1,
    )
    assert report.accuracy.float_.top1 == pytest.approx(0.69, abs=0.005)
    assert report.accuracy.drop_points < 3
    assert report.bits.weight_average <= 4
    assert report.fidelity.layer_max < 1e-3
    assert abs(report.fidelity.excess_error) < 0.05
    assert report.size.quantized_bytes < report.size.float_bytes / 5
