"""What the images of a folder of transformers go through, from loading to the written file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lampq_onnx.config.inputs import ImageOptions, ModelOptions
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.frontend.models import processor_check
from lampq_onnx.frontend.models.export import export_model
from lampq_onnx.frontend.models.transformers import load_transformers
from lampq_onnx.frontend.onnx_model.from_file import load_onnx
from lampq_onnx.frontend.opening import load_model
from lampq_onnx.graph.keys import PREPROCESSING_KEY
from lampq_onnx.graph.metadata import read_metadata
from lampq_onnx.graph.model_file import load_model as load_file
from lampq_onnx.graph.model_file import save_model

transformers = pytest.importorskip("transformers", reason="loads models of transformers")

FLIPPED = {
    "image_processor_type": "MobileViTImageProcessor",
    "size": {"shortest_edge": 36},
    "crop_size": {"height": 32, "width": 32},
    "resample": 2,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        num_labels=3, id2label={0: "cat", 1: "dog", 2: "owl"}, label2id={"cat": 0, "dog": 1, "owl": 2},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def write(folder: Path, said: dict[str, Any], name: str = "preprocessor_config.json") -> None:
    (folder / name).write_text(json.dumps(said))


def test_a_folder_without_settings_is_refused_as_a_file_is(folder: Path) -> None:
    with pytest.raises(UsageError, match="does not say how its images are normalized") as caught:
        load_transformers(str(folder), pretrained=False)
    assert "--mean and --std" in caught.value.hint
    images = ImageOptions(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    found = load_model(ModelOptions(name=str(folder)), images).preprocessing
    assert (found.size, found.mean, found.std) == ((32, 32), images.mean, images.std)


def test_a_processor_of_another_size_than_the_model_is_named(folder: Path) -> None:
    """Classes crop to sizes of their own where a file does not say one."""
    sides = {"height": 32, "width": 32}
    write(folder, {"image_processor_type": "DeiTImageProcessor", "size": sides})
    with pytest.raises(LampqError, match="prepares images of 224x224, and its config") as error:
        load_transformers(str(folder), pretrained=False)
    assert "crop_size of 32x32" in error.value.hint
    write(folder, {"image_processor_type": "DeiTImageProcessor", "size": sides, "crop_size": sides})
    assert load_transformers(str(folder), pretrained=False).preprocessing.size == (32, 32)


def test_a_class_that_the_installed_version_lacks_is_no_list_of_all_models(folder: Path) -> None:
    write(folder, {"image_processor_type": "NobodysImageProcessor", "size": 32})
    with pytest.raises(LampqError, match="cannot make the image processor") as caught:
        load_transformers(str(folder), pretrained=False)
    assert len(caught.value.message) < 300 + len(str(folder))
    assert "beit, bit" not in caught.value.message


def test_flipped_channels_reach_the_written_file(folder: Path, tmp_path: Path) -> None:
    write(folder, FLIPPED)
    loaded = load_transformers(str(folder), pretrained=False)
    ours = loaded.preprocessing
    image = Image.new("RGB", (50, 40), (200, 100, 10))
    pixel = ours.normalize(ours.crop(image)[None])[0, :, 5, 5]
    np.testing.assert_allclose(pixel, np.array([10, 100, 200]) / 255, atol=1e-6)
    path = tmp_path / "float.onnx"
    save_model(export_model(loaded).model, path)
    facts = read_metadata(load_file(path), path)
    assert facts.preprocessing == ours
    assert "BGR" in facts.preprocessing.describe()
    assert facts.task.classes == ("cat", "dog", "owl")


def test_the_class_of_the_model_where_the_settings_name_none(folder: Path) -> None:
    write(folder, {"size": {"height": 32, "width": 32}})
    found = load_transformers(str(folder), pretrained=False).preprocessing
    assert (found.interpolation, found.mean, found.std) == ("bilinear", (0.5,) * 3, (0.5,) * 3)


def test_a_key_that_is_not_supported_stops_the_run(folder: Path) -> None:
    write(folder, FLIPPED | {"do_align_long_axis": True})
    with pytest.raises(LampqError, match="do_align_long_axis is True") as caught:
        load_transformers(str(folder), pretrained=False)
    assert "--crop" in caught.value.hint
    images = ImageOptions(mean=(0.5,) * 3, std=(0.5,) * 3, crop=0.9)
    assert load_transformers(str(folder), pretrained=False, images=images).preprocessing.channel_order == "rgb"


def test_a_class_that_nobody_knows_can_be_replaced_by_options(folder: Path) -> None:
    write(folder, {"image_processor_type": "MysteryImageProcessor"})
    with pytest.raises(LampqError, match=r"Mystery|cannot make the image processor") as caught:
        load_transformers(str(folder), pretrained=False)
    assert "--mean, --std and --crop" in caught.value.hint
    images = ImageOptions(mean=(0.5,) * 3, std=(0.5,) * 3, crop=0.9)
    assert load_transformers(str(folder), pretrained=False, images=images).preprocessing.crop_pct == 0.9
    write(folder, {"image_processor_type": "DonutImageProcessor"})
    with pytest.raises(LampqError, match="image_processor_type is DonutImageProcessor"):
        load_transformers(str(folder), pretrained=False)


def test_a_processor_that_does_something_else_stops_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, FLIPPED)
    kind = type(processor_check.installed_processor(str(folder), local=True))
    monkeypatch.setattr(kind, "flip_channel_order", lambda self, image, **_: image)
    with pytest.raises(LampqError, match="gray levels, most likely because of do_flip_channel_order"):
        load_transformers(str(folder), pretrained=False)


def test_settings_beside_an_onnx_file_are_compared_where_transformers_is_installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, FLIPPED)
    path = folder / "model.onnx"
    exported = export_model(load_transformers(str(folder), pretrained=False)).model
    for key in [key for key in exported.metadata_props if key.startswith("lampq_onnx.")]:
        del exported.metadata_props[key]
    assert PREPROCESSING_KEY not in exported.metadata_props
    save_model(exported, path)
    loaded = load_onnx(path, ImageOptions())
    assert loaded.task.classes == ("cat", "dog", "owl")
    found = loaded.preprocessing
    assert found.channel_order == "bgr"
    kind = type(processor_check.installed_processor(str(folder), local=True))
    monkeypatch.setattr(kind, "flip_channel_order", lambda self, image, **_: image)
    with pytest.raises(LampqError, match="most likely because of do_flip_channel_order"):
        load_onnx(path, ImageOptions())
    monkeypatch.setattr(processor_check, "is_installed", lambda: False)
    assert load_onnx(path, ImageOptions()).preprocessing == found
    write(folder, FLIPPED | {"crop_size": {"height": 30, "width": 32}})
    with pytest.raises(LampqError, match=r"takes images of 32x32 pixels .* makes them 30x32"):
        load_onnx(path, ImageOptions())
