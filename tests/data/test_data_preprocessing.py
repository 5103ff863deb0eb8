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
        {"channels": 0, "mean": (), "std": ()},
        {"channels": 1, "mean": (0.5,), "std": (0.5,), "channel_order": "bgr"},
        {"rescale_factor": 0.0},
        {"resize": {"to": "shortest", "sides": (3, 4)}},
        {"resize": {"to": "none", "sides": (3,)}},
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
        ({"crop_pct": 0.0}, "crop_pct: must be above 0"),
        ({"crop_pct": 1.5}, "crop_pct: must be at most 1"),
        ({"crop_pct": float("inf")}, "crop_pct: "),
    ],
)
def test_override_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make().override(**changes)


@pytest.mark.parametrize("channels", [2, 4, 5, 12])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "letterbox"])
def test_each_channel_of_an_array_is_prepared_as_a_grayscale_picture(channels: int, crop_mode: str) -> None:
    mean, std = tuple(np.linspace(0.1, 0.9, channels)), tuple(np.linspace(0.2, 0.6, channels))
    ours = make(channels=channels, mean=mean, std=std, crop_mode=crop_mode)
    pixels = np.random.default_rng(5).integers(0, 256, (51, 40, channels), dtype=np.uint8)
    crop = ours.crop(pixels)
    normalized = ours.normalize(crop[None])[0]
    for index in range(channels):
        alone = make(channels=1, mean=mean[index : index + 1], std=std[index : index + 1], crop_mode=crop_mode)
        wanted = alone.crop(Image.fromarray(pixels[..., index]))
        np.testing.assert_array_equal(crop[..., index : index + 1], wanted)
        np.testing.assert_array_equal(normalized[index : index + 1], alone.normalize(wanted[None])[0])
    np.testing.assert_array_equal(ours.denormalize(ours.normalize(crop[None])), crop[None])


def test_channels_that_cannot_be_made_are_refused_with_the_reason() -> None:
    twelve = make(channels=12, mean=(0.5,) * 12, std=(0.5,) * 12)
    with pytest.raises(LampqError, match="it is an ordinary picture, but the model takes 12 channels") as caught:
        twelve.crop(random_image(40, 40, "RGB"))
    assert "(N,H,W,12)" in caught.value.hint
    with pytest.raises(LampqError, match="it has 4 channels, but the model takes 12"):
        twelve.crop(np.zeros((40, 40, 4), np.uint8))
    with pytest.raises(LampqError, match="it has 12 channels, but the model takes 3"):
        make().crop(np.zeros((40, 40, 12), np.uint8))
    with pytest.raises(UsageError, match=r"mean has 3 numbers .* for 12 channels: give 12"):
        twelve.override(mean=MEAN)


def test_red_and_blue_change_places_in_the_model_input_only() -> None:
    image = random_image(50, 60, "RGB")
    rgb, bgr = make(), make(channel_order="bgr", mean=MEAN[::-1], std=STD[::-1])
    np.testing.assert_array_equal(bgr.crop(image), rgb.crop(image))
    crops = rgb.crop(image)[None]
    np.testing.assert_array_equal(bgr.normalize(crops), rgb.normalize(crops)[:, ::-1])
    np.testing.assert_array_equal(bgr.denormalize(bgr.normalize(crops)), crops)
    boxed = make(channel_order="bgr", crop_mode="letterbox", mean=(0.0, 0.5, 1.0)).crop(Image.new("RGB", (64, 16)))
    assert boxed[-1, -1].tolist() == [255, 128, 0]


def test_values_of_another_scale() -> None:
    crops = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    ours = make(size=(16, 16), channels=1, mean=(0.25,), std=(0.5,), rescale_factor=1 / 127.5, rescale_offset=-1.0)
    wanted = (np.arange(256).reshape(16, 16) / 127.5 - 1 - 0.25) / 0.5
    np.testing.assert_allclose(ours.normalize(crops)[0, 0], wanted, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(ours.denormalize(ours.normalize(crops)), crops)
    fill = make(crop_mode="letterbox", mean=(-1.0, 0.0, 1.0), rescale_factor=1 / 127.5, rescale_offset=-1.0)
    assert fill.crop(Image.new("RGB", (64, 16)))[-1, -1].tolist() == [0, 128, 255]


def test_an_image_that_is_not_resized_must_have_the_size() -> None:
    ours = make(resize={"to": "none"})
    image = random_image(32, 32, "RGB")
    np.testing.assert_array_equal(ours.crop(image), np.asarray(image))
    with pytest.raises(LampqError, match=r"it is 40x33 pixels .*the model takes 32x32") as caught:
        ours.crop(random_image(33, 40, "RGB"))
    assert "--crop" in caught.value.hint
    assert ours.override(crop_pct=0.9).resize is None


def test_a_placement_follows_the_rule_of_the_crop() -> None:
    ours = make(resize={"to": "shortest", "sides": (35,), "then": "crop"})
    placed = ours.placement(70, 140)
    assert placed.scale == (0.5, 0.5)
    assert placed.offset == (1, 19)
    pixels = np.zeros((70, 140, 3), np.uint8)
    pixels[10:14, 60:64] = 255
    found = np.argwhere(make(resize=ours.resize, interpolation="box").crop(Image.fromarray(pixels))[..., 0] == 255)
    left, top = placed.to_input(np.array([[60.0, 10.0, 4.0, 4.0]]))[0, :2]
    assert found.min(0).tolist() == [top, left]


def test_values_of_older_files_are_read_and_written_alike() -> None:
    text = (
        '{"size":[32,32],"crop_pct":0.9,"crop_mode":"center","interpolation":"bicubic",'
        '"mean":[0.5,0.5,0.5],"std":[0.5,0.5,0.5],"channels":3}'
    )
    assert Preprocessing.model_validate_json(text).model_dump_json() == text
    assert Preprocessing.model_validate_json(text).like_timm
    for changes in (
        {"channel_order": "bgr"},
        {"rescale_factor": 1.0},
        {"rescale_offset": -1.0},
        {"resize": {"to": "longest", "sides": (32,), "then": "pad"}},
    ):
        changed = make(**changes)
        assert Preprocessing.model_validate_json(changed.model_dump_json()) == changed != make()
        assert not changed.like_timm


def test_the_description_says_what_happens() -> None:
    assert make().describe() == "32x32, center crop 0.875, bicubic, mean 0.485, 0.456, 0.406, std 0.229, 0.224, 0.225"
    ours = make(
        channel_order="bgr",
        rescale_factor=1 / 127.5,
        rescale_offset=-1.0,
        resize={"to": "shortest", "sides": (36,), "then": "crop"},
    )
    for words in ("BGR", "shortest side resized to 36, center crop", "values 0..255 times 0.00784314 -1"):
        assert words in ours.describe()
    assert "12 channels" in make(channels=12, mean=(0.5,) * 12, std=(0.5,) * 12).describe()
