"""What is read from the settings of image processors, and what is refused; transformers is not needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.data import Preprocessing
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.importer.processors import plain_preprocessing, preprocessing_of, read_processor_file
from lampq_onnx.importer.processors.keys import IGNORED, OBEYED, UnsupportedKey
from lampq_onnx.importer.processors.keys import NEUTRAL as NEUTRAL_KEYS

BASE = {"size": {"height": 40, "width": 48}, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
ALL = ImageOptions(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), crop=0.8)


def read(said: dict[str, Any], **rest: Any) -> Preprocessing:
    return preprocessing_of(said, "x/preprocessor_config.json", **({"channels": 3} | rest))


def of(kind: str, **keys: Any) -> dict[str, Any]:
    return BASE | {"image_processor_type": f"{kind}ImageProcessor"} | keys


def test_a_file_without_a_class() -> None:
    found = read(BASE)
    assert found.size == (40, 48)
    assert (found.resize, found.crop_mode, found.crop_pct) == (None, "squash", 1.0)
    assert (found.interpolation, found.mean, found.std) == ("bicubic", (0.5,) * 3, (0.25,) * 3)
    assert read(BASE | {"do_flip_channel_order": True}).channel_order == "bgr"
    cropped = read(BASE | {"size": {"shortest_edge": 40}, "crop_pct": 0.8})
    assert cropped.size == (40, 40)
    assert cropped.resize is not None
    assert (cropped.resize.to, cropped.resize.sides) == ("shortest", (50,))
    assert read({"size": 40, "do_normalize": False}).std == (1.0,) * 3


def test_names_of_variants_are_one_class() -> None:
    for name in ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil"):
        assert read({"image_processor_type": name}).mean[0] == pytest.approx(0.48145466)
    assert read({"feature_extractor_type": "MobileViTFeatureExtractor", "resample": 2}).channel_order == "bgr"


@pytest.mark.parametrize("key", sorted(IGNORED - {"image_processor_type", "feature_extractor_type"}))
def test_keys_that_change_no_pixel_are_ignored(key: str) -> None:
    assert read(of("ViT", **{key: "anything"})) == read(of("ViT"))


NEUTRAL = [
    *(("do_flip_channel_order", False), ("do_thumbnail", False), ("do_align_long_axis", False), ("crop_pct", None)),
    *(("keep_aspect_ratio", False), ("ensure_multiple_of", 1), ("size_divisor", None), ("rescale_offset", False)),
]


@pytest.mark.parametrize(("key", "value"), NEUTRAL)
def test_keys_that_do_nothing_may_stand_in_any_file(key: str, value: Any) -> None:
    assert read(of("ViT", **{key: value})) == read(of("ViT"))


SHORTEST = {"shortest_edge": 40}

REFUSED: list[tuple[dict[str, Any], str]] = [
    (of("ViT", mystery=3), "mystery is 3"),
    (of("ViT", do_flip_channel_order=True), "do_flip_channel_order is True, which ViTImageProcessor does not read"),
    (of("ViT", crop_pct=0.9), "crop_pct is 0.9, which ViTImageProcessor does not read"),
    (of("ViT", do_thumbnail=True), "do_thumbnail is True"),
    (of("ViT", do_align_long_axis=True), "do_align_long_axis is True"),
    (of("ViT", keep_aspect_ratio=True), "keep_aspect_ratio is True"),
    (of("ViT", size_divisor=32), "size_divisor is 32"),
    (of("Donut"), "image_processor_type is DonutImageProcessor"),
    (of("ViT", resample=6), "resample is 6"),
    (of("ViT", resample="bicubic"), "resample is 'bicubic'"),
    (of("ViT", resample=True), "resample is True"),
    (of("ViT", size=SHORTEST), "do_center_crop is off"),
    (of("CLIP", size=SHORTEST, do_center_crop=False), "do_center_crop is off"),
    (of("ViT", size={"longest_edge": 40}), "size is .*different sizes"),
    (of("ViT", size={"shortest_edge": 40, "longest_edge": 60}), "size is .*different sizes"),
    (of("ViT", size={"height": 40}), "size is .*not supported"),
    (of("ViT", size={"min_pixels": 4, "max_pixels": 9}), "size is .*not supported"),
    (of("ViT", size={"height": 40, "width": 0}), "size has 0"),
    (of("ViT", size=40.5), "size is 40.5"),
    (of("ViT", size="large"), "size is 'large'"),
    (of("ViT", do_center_crop=True), "crop_size is missing"),
    (of("ViT", do_resize=False), "do_resize is false"),
    (of("ViT", rescale_factor=0), "rescale_factor is 0"),
    (of("ViT", do_rescale="false"), "do_rescale is 'false', neither true nor false"),
    (of("ViT", do_normalize=[]), r"do_normalize is \[\], neither true nor false"),
    (of("ViT", rescale_factor="1/255"), "rescale_factor is '1/255'"),
    (of("ViT", image_mean=[0.5] * 4), "image_mean has 4 numbers, and the model takes 3"),
    (of("ViT", image_std=["a"] * 3), "image_std is"),
    (of("ViT", do_pad=True, pad_size={"height": 20, "width": 20}), "pad_size is .*smaller"),
    (of("CLIP", size=SHORTEST, crop_size=40, do_pad=True, pad_size=50), "pad_size is .*after a center crop"),
    (of("MobileViT", do_normalize=True), "do_normalize is true, which MobileViTImageProcessor does not read"),
    (of("MobileViT", resample=None), "resample is missing, and versions of transformers differ"),
    (of("ConvNext", size=SHORTEST, crop_pct=1.5), "crop_pct is 1.5"),
    (of("ConvNext", size=SHORTEST, crop_pct=0.9, do_center_crop=True, crop_size=30), "crop_size is .*crop_pct"),
    (of("DPT", keep_aspect_ratio=True), "keep_aspect_ratio is true"),
    (of("DPT", do_pad=True, size_divisor=32), "size_divisor is 32"),
    (BASE | {"size": {"shortest_edge": 384}, "crop_pct": 0.9}, "crop_pct is 0.9 with a size of 384"),
    ({key: value for key, value in BASE.items() if key != "size"}, "size is missing"),
    ({"size": 40}, "image_mean is missing"),
]


@pytest.mark.parametrize(("said", "message"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_obeyed_is_refused_by_name(said: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedKey, match=message) as caught:
        read(said)
    assert "x/preprocessor_config.json" in caught.value.message
    assert caught.value.hint
    found = read(said, configured=(40, 48), images=ALL)
    assert (found.mean, found.std) == (ALL.mean, ALL.std)
    assert found.crop_pct == 0.8


def test_the_table_in_the_docs_has_every_key() -> None:
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "images.md").read_text(encoding="utf-8")
    assert [key for key in sorted(OBEYED | IGNORED | NEUTRAL_KEYS.keys()) if f"`{key}`" not in text] == []


def test_options_come_before_the_file() -> None:
    said = of("MobileViT", size={"shortest_edge": 44}, crop_size={"height": 40, "width": 40})
    found = read(said, images=ImageOptions(mean=(0.1, 0.2, 0.3)))
    assert (found.mean, found.std, found.channel_order) == ((0.1, 0.2, 0.3), (1.0,) * 3, "bgr")
    found = read(said, images=ALL)
    assert (found.crop_pct, found.resize, found.channel_order) == (0.8, None, "bgr")
    found = read({"size": 40}, images=ImageOptions(mean=ALL.mean, std=ALL.std))
    assert (found.mean, found.std) == (ALL.mean, ALL.std)
    with pytest.raises(UsageError, match=r"mean has 1 numbers .* for 3 channels: give 3"):
        read(said, images=ImageOptions(mean=(0.5,)))


def test_detectors_letterbox_into_the_size_of_the_model() -> None:
    said = of("Yolos", size={"shortest_edge": 30, "longest_edge": 50})
    found = read(said, configured=(40, 44))
    assert (found.size, found.crop_mode, found.resize) == ((40, 44), "letterbox", None)
    assert read(said).size == (50, 50)
    assert read(said | {"pad_size": {"height": 60, "width": 64}}).size == (60, 64)


def test_nothing_is_assumed_without_a_file() -> None:
    with pytest.raises(UsageError, match="m does not say how its images are normalized") as caught:
        plain_preprocessing("m", channels=3, size=(8, 8), images=ImageOptions(mean=(0.5,) * 3))
    assert "--mean and --std" in caught.value.hint
    with pytest.raises(UsageError, match="m takes images of any size"):
        plain_preprocessing("m", channels=3, size=None, images=ALL)
    with pytest.raises(LampqError, match=r"mean has 3 numbers .* for 12 channels: give 12"):
        plain_preprocessing("m", channels=12, size=(8, 8), images=ALL)


def test_where_the_settings_of_a_folder_stand(tmp_path: Path) -> None:
    assert read_processor_file(tmp_path) is None
    nested, plain = tmp_path / "processor_config.json", tmp_path / "preprocessor_config.json"
    nested.write_text(json.dumps({"processor_class": "CLIPProcessor"}))
    assert read_processor_file(tmp_path) is None
    plain.write_text(json.dumps(BASE))
    assert read_processor_file(tmp_path) == (BASE, plain)
    for part in ("image_processor", "feature_extractor"):
        nested.write_text(json.dumps({part: BASE | {"resample": 0}, "tokenizer": {}}))
        assert read_processor_file(tmp_path) == (BASE | {"resample": 0}, nested)
    nested.write_text(json.dumps({"feature_extractor": {"sampling_rate": 16000}}))
    assert read_processor_file(tmp_path) == (BASE, plain)
    plain.unlink()
    nested.write_text(json.dumps({"video_processor": {"size": 4}}))
    with pytest.raises(LampqError, match=r"processor_config\.json has video_processor and no image_processor"):
        read_processor_file(tmp_path)
    nested.unlink()
    plain.write_text(json.dumps({"video_processor_type": "VideoMAEVideoProcessor"}))
    with pytest.raises(LampqError, match="video_processor_type"):
        read_processor_file(tmp_path)
    plain.write_text("[1]")
    with pytest.raises(LampqError, match=r"preprocessor_config\.json is damaged: it holds a list"):
        read_processor_file(tmp_path)
