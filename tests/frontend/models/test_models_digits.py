"""The embedded model and the images it goes with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform

from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.models import digits
from lampq_onnx.frontend.models.digits import (
    CHECKPOINT_NAME,
    DigitsConfig,
    digits_folder,
    load_config,
    make_split,
    part_images,
    split_images,
)

PARTS = ("train", "calibration", "test")


@pytest.fixture(scope="module")
def embedded() -> Any:
    """The images as scikit-learn gives them; to import it takes a second."""
    from sklearn.datasets import load_digits

    return load_digits()


@pytest.fixture(scope="module")
def config() -> DigitsConfig:
    return load_config()


@pytest.fixture(scope="module")
def model(config: DigitsConfig) -> torch.nn.Module:
    module = timm.create_model(config.timm_model, **config.timm_args)
    module.load_state_dict(load_file(digits_folder() / CHECKPOINT_NAME), strict=True)
    return module.eval()


def test_split_is_disjoint_and_exhaustive(embedded: Any) -> None:
    labels = embedded.target
    counts = {"test": 500, "calibration": 297, "train": 1000}
    parts = digits._stratified(labels, counts, 0)
    assert {name: len(indices) for name, indices in parts.items()} == counts
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(1797))


def test_parts_hold_the_images_of_scikit_learn(config: DigitsConfig, embedded: Any) -> None:
    data = embedded
    expected = sorted(
        (int(label), (image * 15).astype(np.uint8).tobytes())
        for image, label in zip(data.images, data.target, strict=True)
    )
    found = []
    for name in PARTS:
        images, labels = split_images(name)
        assert images.shape == (getattr(config.split, name).count, 8, 8, 1)
        assert images.dtype == np.uint8
        assert images.max() == 240
        assert labels.shape == images.shape[:1]
        assert labels.dtype == np.int64
        found += [(int(label), image.tobytes()) for image, label in zip(images, labels, strict=True)]
    assert sorted(found) == expected


@pytest.mark.parametrize("name", PARTS)
def test_parts_are_stratified(name: str, embedded: Any) -> None:
    share = np.bincount(embedded.target) / 1797
    labels = split_images(name)[1]
    for count in (len(labels), 100):
        assert np.abs(np.bincount(labels[:count], minlength=10) - share * count).max() <= 2


def test_recorded_split_follows_from_its_seed(config: DigitsConfig) -> None:
    split = config.split
    counts = {name: getattr(split, name).count for name in PARTS}
    assert make_split(**counts, seed=split.seed) == split
    other = make_split(**counts, seed=split.seed + 1)
    assert other.images_sha256 == split.images_sha256
    assert other.test.sha256 != split.test.sha256


def test_counts_must_add_up() -> None:
    with pytest.raises(ValueError, match="1796"):
        make_split(train=1000, calibration=296, test=500, seed=0)


def test_changed_indices_are_noticed(config: DigitsConfig) -> None:
    changed = config.split.model_copy(update={"seed": config.split.seed + 1})
    with pytest.raises(LampqError, match="indices of the test images"):
        part_images(changed, "test")


def test_changed_images_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = digits._all_images()
    images = images.copy()
    images[3, 4, 5] ^= 1
    monkeypatch.setattr(digits, "_all_images", lambda: (images, labels))
    with pytest.raises(LampqError, match="images differ"):
        split_images("test")


def test_missing_images_are_a_readable_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    with pytest.raises(LampqError, match=r"scikit-learn's .*digits\.csv\.gz, .* is not installed"):
        digits._all_images.__wrapped__()


def test_missing_folder_is_a_readable_error(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(digits, "__file__", str(tmp_path / "package" / "frontend" / "models" / "digits.py"))
    with pytest.raises(LampqError, match="embedded digits model"):
        digits_folder()


def test_folder_inside_the_package_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(digits, "__file__", str(tmp_path / "package" / "frontend" / "models" / "digits.py"))
    for root in (tmp_path, tmp_path / "package"):
        folder = root / "models" / "digits"
        folder.mkdir(parents=True)
        for name in (CHECKPOINT_NAME, "config.json"):
            (folder / name).touch()
        assert digits_folder() == folder


def test_checkpoint_is_small() -> None:
    assert (digits_folder() / CHECKPOINT_NAME).stat().st_size <= 3_000_000


def test_blocks_have_32_linear_layers(model: torch.nn.Module) -> None:
    linears = [name for name, module in model.blocks.named_modules() if isinstance(module, torch.nn.Linear)]
    assert len(linears) == 32
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_float_accuracy_is_the_recorded_one(config: DigitsConfig, model: torch.nn.Module) -> None:
    steps = config.preprocessing
    transform = create_transform(
        input_size=(steps.channels, *steps.size),
        interpolation=steps.interpolation,
        mean=steps.mean,
        std=steps.std,
        crop_pct=steps.crop_pct,
        crop_mode=steps.crop_mode,
    )
    images, labels = split_images("test")
    with torch.inference_mode():
        logits = model(torch.stack([transform(Image.fromarray(image[..., 0])) for image in images]))
    accuracy = float(np.mean(logits.argmax(1).numpy() == labels))
    assert config.float_test_top1 >= 0.975
    assert accuracy == pytest.approx(config.float_test_top1, abs=0.005)
