"""A model of images that are not square, from its checkpoint to its checked file, in each way to say its size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import timm
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform

import lampq_onnx
from lampq_onnx import Report
from lampq_onnx.config.recipe import Recipe
from tests.cli.conftest import QUICK, invoke

SIZE = (32, 64)
VIT = {"img_size": SIZE, "patch_size": 16, "num_classes": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
SWIN = {
    "img_size": SIZE, "patch_size": 4, "window_size": (4, 8), "num_classes": 4, "embed_dim": 8, "depths": (1, 1),
    "num_heads": (1, 2),
}  # fmt: skip
FAST = (*QUICK, "--latency-runs", "2", "--gate-agreement", "0")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen images of 40 x 100 pixels in four classes."""
    path = tmp_path_factory.mktemp("images") / "images.npz"
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (16, 5, 10, 3), dtype=np.uint8)
    np.savez(path, images=coarse.repeat(8, 1).repeat(10, 2), labels=np.arange(16) % 4)
    return path


def checkpoint(folder: Path, name: str, arguments: dict[str, object]) -> tuple[torch.nn.Module, Path]:
    torch.manual_seed(0)
    module = timm.create_model(name, **arguments).eval()
    for part in module.modules():
        if isinstance(part, torch.nn.Linear | torch.nn.Conv2d):
            torch.nn.init.normal_(part.weight, std=part.weight[0].numel() ** -0.5)
    path = folder / "model_best.pth.tar"
    torch.save({"state_dict": {f"module.{k}": v for k, v in module.state_dict().items()}, "epoch": 3}, path)
    return module, path


def words(arguments: dict[str, object]) -> list[str]:
    typed = (f"{key}={list(value) if isinstance(value, tuple) else value}" for key, value in arguments.items())
    return [word for text in typed for word in ("--model-arg", text)]


def test_the_whole_way_with_images_made_from_the_model(photographs: Path, tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    module, weights = checkpoint(tmp_path, name, VIT)
    out = tmp_path / "out"
    code, _, err = invoke(
        "quantize", name, "--checkpoint", weights, *words(VIT), "--calibration", "synthetic", "--calibration-size", "4",
        "--validation", photographs, "--output", out, *FAST,
    )  # fmt: skip
    assert code == 0, err
    report = Report.load(out / "report.json")
    assert report.preprocessing.startswith("32x64")
    assert Recipe.load(out / "recipe.toml").model.model_args == VIT
    # What timm's own transform makes of the photographs, through PyTorch, is what the file computes on them.
    with np.load(photographs) as stored:
        pixels = stored["images"]
    transform = create_transform((3, *SIZE), crop_pct=1.0, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)
    images = torch.stack([transform(Image.fromarray(image)) for image in pixels])
    session = ort.InferenceSession(str(out / "float.onnx"))
    assert session.get_inputs()[0].shape == ["batch", 3, *SIZE]
    with torch.no_grad():
        expected = module(images).numpy()
    answers = session.run(None, {"input": images.numpy()})[0]
    np.testing.assert_allclose(answers, expected, rtol=1e-3, atol=1e-4)
    right = float((expected.argmax(1) == np.arange(16) % 4).mean())
    assert report.accuracy.float_.top1 == pytest.approx(right)
    code, said, err = invoke("reproduce", out / "model.onnx", "--checkpoint", weights)
    assert code == 0, err
    assert "bit for bit" in said
    again = tmp_path / "again"
    lampq_onnx.quantize(
        name, again, checkpoint=weights, model_args=VIT, calibration="synthetic", calibration_size=4,
        validation=photographs, effort="fast", threads=1, latency_runs=2,
    )  # fmt: skip
    assert (again / "model.onnx").read_bytes() == (out / "model.onnx").read_bytes()


def test_windows_and_lists_of_a_swin(photographs: Path, tmp_path: Path) -> None:
    name = "swin_tiny_patch4_window7_224"
    _, weights = checkpoint(tmp_path, name, SWIN)
    recipe = tmp_path / "swin.toml"
    table = "\n".join(f"{key} = {list(v) if isinstance(v, tuple) else v}" for key, v in SWIN.items())
    recipe.write_text(f"[model]\nname = '{name}'\ncheckpoint = '{weights}'\n[model.model_args]\n{table}\n")
    out = tmp_path / "out"
    code, _, err = invoke(
        "quantize", "--recipe", recipe, "--calibration", photographs, "--validation", photographs, "--output", out,
        *FAST,
    )  # fmt: skip
    assert code == 0, err
    report = Report.load(out / "report.json")
    assert report.preprocessing.startswith("32x64")
    assert sum("attn.qkv" in layer.name for layer in report.layers) == 2
    assert Recipe.load(out / "recipe.toml").model.model_args == SWIN
