from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from lampq_onnx.data import Preprocessing
from lampq_onnx.errors import LampqError, UsageError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make(**changes: Any) -> Preprocessing:
    values: dict[str, Any] = {
        "size": (32, 32),
        "crop_pct": 0.875,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "mean": MEAN,
        "std": STD,
        "channels": 3,
    }
    return Preprocessing(**(values | changes))


def random_image(height: int, width: int, mode: str, seed: int = 0) -> Image.Image:
    shape = {"L": (height, width), "RGB": (height, width, 3), "RGBA": (height, width, 4)}[mode]
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def timm_transforms(preprocessing: Preprocessing) -> tuple[Any, Any]:
    from timm.data import create_transform

    shared: dict[str, Any] = {
        "input_size": (preprocessing.channels, *preprocessing.size),
        "is_training": False,
        "interpolation": preprocessing.interpolation,
        "crop_pct": preprocessing.crop_pct,
        "crop_mode": preprocessing.crop_mode,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
    }
    return create_transform(**shared, normalize=False), create_transform(**shared)


SIZES = [(47, 61), (61, 47), (33, 33), (5, 9), (1, 1), (3, 101), (36, 36), (500, 37), (32, 32)]


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("size", [(32, 32), (31, 31), (32, 48), (45, 21)])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0, 0.95])
def test_equals_timm(crop_mode: str, size: tuple[int, int], crop_pct: float) -> None:
    for interpolation in ("bilinear", "bicubic", "nearest", "lanczos"):
        ours = make(crop_mode=crop_mode, size=size, crop_pct=crop_pct, interpolation=interpolation)
        cropped, normalized = timm_transforms(ours)
        for seed, (height, width) in enumerate(SIZES):
            image = random_image(height, width, "RGB", seed)
            crop = ours.crop(image)
            np.testing.assert_array_equal(crop, cropped(image).numpy().transpose(1, 2, 0))
            result = ours.normalize(crop[None])[0]
            np.testing.assert_allclose(result, normalized(image).numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_modes_equal_timm_after_conversion(mode: str, channels: int) -> None:
    ours = make(channels=channels, mean=MEAN[:channels], std=STD[:channels])
    cropped, normalized = timm_transforms(ours)
    image = random_image(51, 40, mode)
    converted = image.convert("RGB" if channels == 3 else "L")
    crop = ours.crop(image)
    assert crop.shape == (32, 32, channels)
    assert crop.dtype == np.uint8
    np.testing.assert_array_equal(crop, cropped(converted).numpy().transpose(1, 2, 0))
    np.testing.assert_allclose(ours.normalize(crop[None])[0], normalized(converted).numpy(), rtol=0, atol=1e-6)


def test_a_realistic_photo_size_equals_timm() -> None:
    ours = make(size=(224, 224), crop_pct=0.9)
    image = random_image(375, 501, "RGB")
    np.testing.assert_array_equal(ours.crop(image), timm_transforms(ours)[0](image).numpy().transpose(1, 2, 0))


def test_crop_is_writable_and_separate() -> None:
    image = random_image(32, 32, "RGB")
    before = np.array(image)
    crop = make(crop_pct=1.0).crop(image)
    crop[:] = 0
    np.testing.assert_array_equal(np.array(image), before)


def test_normalize_layout_and_refusals() -> None:
    ours = make()
    out = ours.normalize(np.zeros((2, 32, 32, 3), np.uint8))
    assert out.shape == (2, 3, 32, 32)
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    with pytest.raises(ValueError, match="expected uint8"):
        ours.normalize(np.zeros((2, 32, 32, 3), np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected uint8"):
        ours.normalize(np.zeros((2, 3, 32, 32), np.uint8))


def test_extremely_elongated_image_is_refused_before_it_is_resized() -> None:
    with pytest.raises(LampqError, match="would be resized to"):
        make(size=(224, 224)).crop(Image.new("RGB", (60_000, 1)))


def test_json_round_trip() -> None:
    ours = make(size=(32, 48))
    assert Preprocessing.model_validate_json(ours.model_dump_json()) == ours


@pytest.mark.parametrize(
    "changes",
    [
        {"size": (0, 32)},
        {"crop_pct": 0.0},
        {"crop_pct": 1.01},
        {"crop_mode": "border"},
        {"interpolation": "cubic"},
        {"mean": (0.5,)},
        {"std": (1.0, 1.0, 0.0)},
        {"std": (1.0, 1.0, 1e-60)},
        {"std": (1.0, 1.0, float("nan"))},
        {"channels": 4},
        {"extra": 1},
    ],
)
def test_construction_is_validated(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(**changes)


def test_override_returns_a_changed_copy() -> None:
    ours = make()
    changed = ours.override(mean=[0.5, 0.5, 0.5], crop_pct=1.0)
    assert (changed.mean, changed.crop_pct, changed.std) == ((0.5, 0.5, 0.5), 1.0, STD)
    assert ours == make()
    assert ours.override() == ours


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": [0.5]}, "mean has 1 numbers .* for 3 channels"),
        ({"std": [1.0] * 4}, "std has 4 numbers .* for 3 channels"),
        ({"std": [1.0, -1.0, 1.0]}, "std: every number must be greater than 0"),
        ({"mean": [0.5, float("nan"), 0.5]}, "mean: .*finite"),
        ({"crop_pct": 0.0}, "crop_pct: .*greater than 0"),
        ({"crop_pct": 1.5}, "crop_pct: .*less than or equal to 1"),
        ({"crop_pct": float("inf")}, "crop_pct: "),
    ],
)
def test_override_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make().override(**changes)
