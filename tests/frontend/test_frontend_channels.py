"""Models whose images have neither one channel nor three."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import safetensors.torch
import timm
import torch

from lampq_onnx.config.inputs import ImageOptions, ModelOptions, SyntheticOptions
from lampq_onnx.data import CroppedImages, open_source
from lampq_onnx.data.thumbnails import thumbnail
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.frontend.models.export import export_model
from lampq_onnx.frontend.onnx_model.from_file import load_onnx
from lampq_onnx.frontend.opening import load_model
from lampq_onnx.frontend.synthetic import calibration_source
from lampq_onnx.graph.model_file import save_model

NAME = "vit_tiny_patch16_224"
ARGS = {"img_size": 16, "patch_size": 4, "num_classes": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}


def statistics(channels: int) -> ImageOptions:
    return ImageOptions(mean=tuple(np.linspace(0.3, 0.6, channels)), std=tuple(np.linspace(0.2, 0.4, channels)))


def options(channels: int, folder: Path) -> ModelOptions:
    torch.manual_seed(0)
    arguments = ARGS | {"in_chans": channels}
    path = folder / "model.safetensors"
    safetensors.torch.save_file(timm.create_model(NAME, **arguments).state_dict(), path)
    return ModelOptions(name=NAME, checkpoint=path, model_args=arguments)


@pytest.mark.parametrize("channels", [1, 2, 4, 12])
def test_arrays_go_through_the_model_and_its_file(channels: int, tmp_path: Path) -> None:
    images = statistics(channels)
    loaded = load_model(options(channels, tmp_path), images)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, channels), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels)
    source = open_source(tmp_path / "images.npz", num_classes=4, need_labels=False)
    preprocessing = loaded.preprocessing.override(crop_pct=1.0)
    with CroppedImages(source, preprocessing) as crops:
        batch = next(crops.batches(3)).images
    wanted = (pixels / 255 - np.array(images.mean)) / np.array(images.std)
    np.testing.assert_allclose(batch, wanted.transpose(0, 3, 1, 2), rtol=0, atol=1e-5)
    assert thumbnail(source, preprocessing, 0)
    path = tmp_path / "float.onnx"
    exported = export_model(loaded)
    save_model(exported.model, path)
    logits = ort.InferenceSession(path).run(None, {"input": batch})[0]
    np.testing.assert_allclose(logits, loaded.module(torch.from_numpy(batch)).numpy(), rtol=1e-4, atol=1e-5)
    assert load_onnx(path, ImageOptions()).preprocessing == loaded.preprocessing
    made, plain = calibration_source("noise", loaded, (), SyntheticOptions(size=2))
    assert plain.crop(made.image(0)).shape == (16, 16, channels)


def test_mean_and_std_of_other_channels_are_not_made_up(tmp_path: Path) -> None:
    model = options(12, tmp_path)
    with pytest.raises(UsageError, match="takes 12 channels, and timm knows the mean and std of 3") as caught:
        load_model(model, ImageOptions())
    assert "12 numbers" in caught.value.hint
    with pytest.raises(UsageError, match="takes 12 channels"):
        load_model(model, ImageOptions(mean=(0.5,) * 12))
    with pytest.raises(UsageError, match=r"mean has 3 numbers .* for 12 channels: give 12"):
        load_model(model, ImageOptions(mean=(0.5,) * 3, std=(0.5,) * 12))
    assert load_model(options(1, tmp_path), ImageOptions()).preprocessing.channels == 1


def test_a_file_without_our_metadata(tmp_path: Path) -> None:
    loaded = load_model(options(12, tmp_path), statistics(12))
    exported = export_model(loaded).model
    exported.metadata_props.clear()
    save_model(exported, tmp_path / "plain.onnx")
    assert load_onnx(tmp_path / "plain.onnx", statistics(12)).preprocessing.channels == 12
    with pytest.raises(LampqError, match=r"mean has 3 numbers .* for 12 channels: give 12"):
        load_onnx(tmp_path / "plain.onnx", statistics(3))
