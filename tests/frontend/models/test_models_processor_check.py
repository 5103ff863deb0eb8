"""Image processors of transformers against ours, key by key and pixel by pixel."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.data import Preprocessing
from lampq_onnx.frontend.models.processor_check import installed_processor, require_same_pixels
from lampq_onnx.importer.processors import class_name, preprocessing_of, read_processor_file
from lampq_onnx.importer.processors.classes import KNOWN
from lampq_onnx.importer.processors.keys import UnsupportedKey

pytest.importorskip("transformers", reason="compares with the processors of transformers")

BACKENDS = importlib.util.find_spec("transformers.image_processing_backends") is not None
"""Newer versions: any class pads, settings may stand in processor_config.json, and no class is only called Fast."""

HALF = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
SQUARE = {"height": 40, "width": 40}
WIDE = {"height": 32, "width": 48}


def settings(kind: str, **keys: Any) -> dict[str, Any]:
    return {"image_processor_type": f"{kind}ImageProcessor", **keys}


CASES = {
    "stretch": settings("ViT", size=SQUARE, resample=2, **HALF),
    "stretch, not square": settings("ViT", size=WIDE, resample=3, **HALF),
    "size of one number": settings("ViT", size=40, **HALF),
    "size of two numbers": settings("ViT", size=[32, 48], **HALF),
    "defaults of the class": settings("ViT", size=SQUARE),
    "defaults of CLIP": settings("CLIP", size={"shortest_edge": 45}, crop_size=SQUARE),
    "defaults of DeiT": settings("DeiT", size={"height": 46, "width": 46}, crop_size={"height": 41, "width": 41}),
    "defaults that vary between versions": settings("ConvNext", size={"shortest_edge": 36}),
    "nearest": settings("ViT", size=SQUARE, resample=0, **HALF),
    "lanczos": settings("ViT", size=SQUARE, resample=1, **HALF),
    "box": settings("ViT", size=SQUARE, resample=4, **HALF),
    "hamming": settings("ViT", size=SQUARE, resample=5, **HALF),
    "do_normalize false": settings("ViT", size=SQUARE, do_normalize=False),
    "do_rescale false": settings(
        "ViT", size=SQUARE, do_rescale=False, image_mean=[120.0, 110, 100], image_std=[60] * 3
    ),
    "neither": settings("ViT", size=SQUARE, do_rescale=False, do_normalize=False),
    "rescale_factor": settings("ViT", size=SQUARE, rescale_factor=1 / 127.5, **HALF),
    "one mean for all": settings("ViT", size=SQUARE, image_mean=0.4, image_std=0.3),
    "shortest side and crop": settings("CLIP", size={"shortest_edge": 48}, crop_size=SQUARE, **HALF),
    "one number is the shortest side": settings("CLIP", size=48, crop_size=40, **HALF),
    "odd crop": settings("Bit", size={"shortest_edge": 50}, crop_size={"height": 33, "width": 47}, **HALF),
    "crop larger than the image": settings("CLIP", size={"shortest_edge": 31}, crop_size={"height": 44, "width": 45}),
    "do_resize false and crop": settings("CLIP", do_resize=False, crop_size=SQUARE, **HALF),
    "do_resize false": settings("ViT", do_resize=False, **HALF),
    "no crop, stretched": settings("CLIP", size=SQUARE, do_center_crop=False, **HALF),
    "pad_size": settings("ViT", size=WIDE, do_pad=True, pad_size={"height": 40, "width": 60}, **HALF),
    "channels flipped": settings("MobileViT", size={"shortest_edge": 45}, crop_size=SQUARE, resample=2),
    "channels not flipped": settings(
        "MobileViT", size={"shortest_edge": 45}, crop_size=SQUARE, resample=3, do_flip_channel_order=False
    ),
    "crop_pct": settings("ConvNext", size={"shortest_edge": 40}, crop_pct=0.875, resample=3, **HALF),
    "odd crop_pct": settings("ConvNext", size={"shortest_edge": 37}, crop_pct=0.93, resample=2, **HALF),
    "crop_pct of a large size": settings("ConvNext", size={"shortest_edge": 384}, crop_pct=0.9, resample=2, **HALF),
    "PoolFormer": settings("PoolFormer", size={"shortest_edge": 40}, crop_pct=0.9, crop_size=SQUARE, **HALF),
    "PoolFormer, square": settings("PoolFormer", size=SQUARE, crop_pct=0.95, crop_size=SQUARE, **HALF),
    "PoolFormer, both sides": settings("PoolFormer", size=WIDE, crop_pct=0.8, crop_size=WIDE, **HALF),
    "LeViT": settings("Levit", size={"shortest_edge": 40}, crop_size=SQUARE),
    "EfficientNet": settings("EfficientNet", size=SQUARE, resample=0),
    "EfficientNet, offset": settings(
        "EfficientNet", size=SQUARE, resample=3, rescale_offset=True, rescale_factor=1 / 127.5, do_normalize=False
    ),
    "EfficientNet, without top": settings("EfficientNet", size=SQUARE, resample=3, include_top=False, **HALF),
    "EfficientNet, crop": settings(
        "EfficientNet", size={"height": 50, "width": 50}, resample=3, do_center_crop=True, crop_size=SQUARE
    ),
    "DPT": settings("DPT", size={"height": 45, "width": 61}, ensure_multiple_of=16, **HALF),
    "Segformer": settings("Segformer", size=SQUARE, do_reduce_labels=True),
    "Beit": settings("Beit", size={"height": 46, "width": 46}, do_center_crop=True, crop_size=SQUARE),
    "Siglip": settings("Siglip", size=SQUARE),
    "Sam": settings("Sam", size={"longest_edge": 40}, pad_size=SQUARE, mask_size={"longest_edge": 10}),
    "RT-DETR": settings("RTDetr", size=SQUARE),
    "detector, aspect ratio": settings("Yolos", size={"shortest_edge": 30, "longest_edge": 50}),
    "detector, one number": settings("Detr", size=30, max_size=50),
    "detector, fixed": settings("Yolos", size=WIDE, do_pad=False, resample=3, **HALF),
    "detector, limits": settings("Detr", size={"max_height": 40, "max_width": 50}),
    "only torchvision": {**settings("", size=SQUARE, **HALF), "image_processor_type": "DINOv3ViTImageProcessorFast"},
}


def read(
    folder: Path, said: dict[str, Any], configured: tuple[int, int] | None = (40, 40)
) -> tuple[Any, Preprocessing]:
    """The installed processor of a folder, and our reading of the same file."""
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    processor = installed_processor(str(folder), local=True)
    found = read_processor_file(folder)
    assert found is not None
    settings, path = found
    own = dict(processor.to_dict())
    return processor, preprocessing_of(settings, str(path), channels=3, configured=configured, installed=own)


@pytest.mark.parametrize("name", CASES)
def test_every_key_gives_the_same_pixels(name: str, tmp_path: Path) -> None:
    if name == "pad_size" and not BACKENDS:
        pytest.skip("this class pads in newer versions of transformers")
    processor, ours = read(tmp_path, CASES[name])
    require_same_pixels(processor, "the file", ours)


def test_pixels_are_equal_but_for_rounding_of_floats(tmp_path: Path) -> None:
    processor, ours = read(tmp_path, CASES["odd crop_pct"])
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (57, 83, 3), dtype=np.uint8))
    wanted = np.asarray(processor(image, return_tensors="np")["pixel_values"][0])
    np.testing.assert_allclose(ours.normalize(ours.crop(image)[None])[0], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", KNOWN)
def test_what_a_class_does_with_no_keys_is_known(name: str, tmp_path: Path) -> None:
    """The defaults in our table are those of the installed version, where they do not differ between versions."""
    if not BACKENDS and name in ("DINOv3ViTImageProcessor", "ChineseCLIPImageProcessor"):
        pytest.skip("older versions of transformers cannot make this class, or not use its own defaults")
    processor, ours = read(tmp_path, {"image_processor_type": name})
    for key, value in KNOWN[name].defaults.items():
        found = getattr(processor, key, None)
        found = dict(found) if isinstance(value, dict) else found
        assert found == (
            pytest.approx(value) if isinstance(value, float | list) and not isinstance(found, dict) else value
        ) or (value is False and found is None), key
    assert class_name(processor.to_dict()) == name
    small = {"size": {"shortest_edge": 24, "longest_edge": 40}} if ours.crop_mode == "letterbox" else {}
    require_same_pixels(processor, "the file", read(tmp_path, {"image_processor_type": name, **small})[1])


WRONG = [
    ({"channel_order": "bgr"}, "do_flip_channel_order"),
    ({"interpolation": "nearest"}, "resample"),
    ({"rescale_factor": 1 / 127.5}, "rescale_factor"),
    ({"mean": (0.0,) * 3, "std": (1.0,) * 3, "rescale_factor": 0.02}, ""),
]


@pytest.mark.parametrize(("changes", "key"), WRONG)
def test_a_difference_stops_and_names_the_key(changes: dict[str, Any], key: str, tmp_path: Path) -> None:
    processor, ours = read(tmp_path, CASES["shortest side and crop"])
    wrong = Preprocessing.model_validate(ours.model_dump() | changes)
    with pytest.raises(UnsupportedKey, match=r"CLIPImageProcessor.* differ by up to [0-9.]+ of 255") as caught:
        require_same_pixels(processor, "the file", wrong)
    assert key in caught.value.message
    assert "--mean" in caught.value.hint


def test_a_processor_that_does_more_than_its_file_says_is_found(tmp_path: Path) -> None:
    processor, ours = read(tmp_path, CASES["stretch"])
    processor.do_normalize = False
    with pytest.raises(UnsupportedKey, match="most likely because of do_normalize"):
        require_same_pixels(processor, "the file", ours)
    processor.do_normalize, processor.size = True, {"height": 33, "width": 40}
    with pytest.raises(UnsupportedKey, match="the sizes differ, most likely because of size"):
        require_same_pixels(processor, "the file", ours)


def test_grayscale(tmp_path: Path) -> None:
    said = settings("ViT", size=SQUARE, image_mean=[0.4], image_std=[0.3])
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    ours = preprocessing_of(said, "the file", channels=1)
    require_same_pixels(installed_processor(str(tmp_path), local=True), "the file", ours)


@pytest.mark.skipif(not BACKENDS, reason="older versions of transformers do not read this file")
def test_settings_inside_a_processor_config(tmp_path: Path) -> None:
    inner = settings("CLIP", size={"shortest_edge": 48}, crop_size=SQUARE, **HALF)
    (tmp_path / "processor_config.json").write_text(
        json.dumps({"processor_class": "CLIPProcessor", "image_processor": inner})
    )
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**inner, "image_mean": [0.1] * 3}))
    found = read_processor_file(tmp_path)
    assert found is not None
    assert found[1].name == "processor_config.json"
    ours = preprocessing_of(found[0], str(found[1]), channels=3, images=ImageOptions())
    require_same_pixels(installed_processor(str(tmp_path), local=True), "the file", ours)


def test_the_comparison_is_short(tmp_path: Path) -> None:
    processor, ours = read(tmp_path, settings("ViT", size={"height": 224, "width": 224}, resample=3, **HALF))
    start = time.process_time()
    require_same_pixels(processor, "the file", ours)
    assert time.process_time() - start < 5
