"""Models with one output and with maps, from the command line to the report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import save_file

from tests.cli.conftest import QUICK, invoke
from tests.frontend.tiny_models import tiny_vit

ARGUMENTS = {"img_size": 16, "patch_size": 4, "num_classes": 1, "embed_dim": 16, "depth": 2, "num_heads": 2}
IMAGES = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[str | Path, ...]:
    """Words that name a model with one output and its images."""
    folder = tmp_path_factory.mktemp("one")
    module = tiny_vit(num_classes=1)
    with torch.no_grad():
        module.head.weight.mul_(3)
    save_file(module.state_dict(), folder / "one.safetensors")
    words = [word for key, value in ARGUMENTS.items() for word in ("--model-arg", f"{key}={value}")]
    return "vit_tiny_patch16_224", "--checkpoint", folder / "one.safetensors", *words


def images(path: Path, labels: object | None) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 16, 16, 3), dtype=np.uint8)
    np.savez(path, images=pixels, **({} if labels is None else {"labels": np.asarray(labels)}))
    return path


def outputs(folder: Path, source: Path) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.load(source)["images"].astype(np.float32) / 255
    found = [
        ort.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
        .run(None, {"input": ((pixels - 0.5) / 0.5).transpose(0, 3, 1, 2)})[0][:, 0]
        .astype(np.float64)
        for name in ("float.onnx", "model.onnx")
    ]
    return found[0], found[1]


def test_real_labels_make_one_output_a_regression(model: tuple[str | Path, ...], tmp_path: Path) -> None:
    truth = np.random.default_rng(1).normal(size=IMAGES)
    source, out = images(tmp_path / "images.npz", truth), tmp_path / "out"
    words = (
        "--calibration",
        source,
        "--validation",
        source,
        "--bits",
        "3",
        "--gate-agreement",
        "0",
        "--latency-runs",
        "2",
    )
    code, said, err = invoke("quantize", *model, *words, *QUICK, "-v", "--output", out)
    assert code == 0, err
    a, b = outputs(out, source)
    found = json.loads((out / "report.json").read_text())["accuracy"]
    error = np.linalg.norm(a - b) / np.linalg.norm(a)
    assert error > 0.01
    assert 10 ** (-found["logit_sqnr_db"] / 20) == pytest.approx(error, rel=1e-3)
    assert found["kl"] == pytest.approx((((a - b) / a.std()) ** 2).mean() / 2, rel=1e-2)
    assert found["agreement"] == pytest.approx(np.clip(1 - np.abs(a - b) / a.std(), 0, None).mean(), rel=1e-2)
    assert found["agreement"] < 1
    r2 = [1 - ((truth - v) ** 2).sum() / ((truth - truth.mean()) ** 2).sum() for v in (a, b)]
    assert [found["float"]["top1"], found["quantized"]["top1"]] == pytest.approx(r2, rel=1e-3)
    assert "1 - change / spread" in " ".join(said.split())
    assert 'task = "regression"' in (out / "recipe.toml").read_text()
    code, _, err = invoke(
        "validate", out / "model.onnx", "--validation", source, "--threads", "1", "--latency-runs", "2",
        "-o", tmp_path / "again.json",
    )  # fmt: skip
    assert code == 0, err
    again = json.loads((tmp_path / "again.json").read_text())["accuracy"]
    assert again["kl"] == pytest.approx(found["kl"], rel=1e-6)
    assert again["metric"] == "R2"


@pytest.mark.parametrize(
    ("labels", "words", "says"),
    [
        (None, (), "no labels say what it means"),
        (np.zeros(IMAGES, int), (), "labels that are all 0"),
        (np.zeros(IMAGES, int), ("--task", "classification"), "the loss of the task classification is constant"),
        (np.arange(IMAGES) % 3, ("--task", "binary"), "neither 0 nor 1|labels of the task binary must be 0 or 1"),
        (np.ones((IMAGES, 2)), ("--task", "regression"), r"shape \(2,\)"),
        (np.ones(IMAGES), ("--task", "regression"), "same label on all 16 validation images"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_what_cannot_be_scored_is_refused_before_work(
    model: tuple[str | Path, ...], labels: object, words: tuple[str, ...], says: str, dry: bool, tmp_path: Path
) -> None:
    source = images(tmp_path / "images.npz", labels)
    more = ("--dry-run",) if dry else ("--output", tmp_path / "out", *QUICK)
    code, _, err = invoke("quantize", *model, "--calibration", source, "--validation", source, *words, *more)
    text = " ".join(err.split())
    assert code in (1, 2)
    assert re.search(says, text), text
    assert "--task" in text or "validate on" in text or "as many numbers" in text
    assert "equalization" not in text
    assert not (tmp_path / "out" / "model.onnx").exists()
