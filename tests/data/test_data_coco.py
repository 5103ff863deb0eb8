from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lampq_onnx.data import Preprocessing, open_source
from lampq_onnx.errors import LampqError


def written(folder: Path, *, name: str = "annotations.json", folder_name: str = "images", **changes: Any) -> Path:
    content: dict[str, Any] = {
        "images": [{"id": 7, "file_name": "a.png", "width": 20, "height": 10, "license": 3},
                   {"id": 4, "file_name": "b.png", "width": 8, "height": 8}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4], "area": 5, "iscrowd": 1},
                        {"id": 2, "image_id": 7, "category_id": 9, "bbox": [0.5, 0, 10, 5]}],
        "categories": [{"id": 2, "name": "cup"}, {"id": 9, "name": "cat"}],
    }  # fmt: skip
    content.update(changes)
    (folder / folder_name).mkdir(parents=True, exist_ok=True)
    for image in content["images"]:
        pixels = np.zeros((image["height"], image["width"], 3), np.uint8)
        Image.fromarray(pixels).save(folder / folder_name / image["file_name"])
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("whole", [True, False])
def test_images_come_with_their_boxes(tmp_path: Path, whole: bool) -> None:
    path = written(tmp_path)
    source = open_source(tmp_path if whole else path, num_classes=None, need_labels=False)
    assert source.labels is None
    assert source.objects is not None
    assert source.objects.categories == {2: "cup", 9: "cat"}
    first = source.objects.images[0]
    assert first.size == (10, 20)
    assert first.boxes.tolist() == [[1, 2, 3, 4], [0.5, 0, 10, 5]]
    assert first.categories.tolist() == [2, 9]
    assert first.areas.tolist() == [5, 50]
    assert first.crowds.tolist() == [True, False]
    turned = source.subset([1, 0])
    assert turned.objects is not None
    assert [len(image.boxes) for image in turned.objects.images] == [0, 2]
    assert turned.image(1).size == (20, 10)


def test_the_folders_of_coco_itself_are_known(tmp_path: Path) -> None:
    path = written(tmp_path, name="annotations/instances_val2017.json", folder_name="val2017")
    assert open_source(path, num_classes=None, need_labels=False).image(0).size == (20, 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, "lists no images"),
        ({"annotations": [{"image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1]}]}, "image 1, which"),
        ({"annotations": [{"image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 1]}]}, "category 1, which"),
        ({"annotations": [{"image_id": 7, "category_id": 2, "bbox": [0, 0, 0, 1]}]}, "no extent"),
        ({"annotations": [{"image_id": 7, "category_id": 2, "bbox": [0, 0, 1]}]}, "annotations.0.bbox"),
        ({"categories": None}, "categories"),
    ],
)
def test_damaged_annotations_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(LampqError, match=message):
        open_source(path, num_classes=None, need_labels=False)


def test_missing_images_and_wrong_uses_are_told(tmp_path: Path) -> None:
    path = written(tmp_path)
    with pytest.raises(LampqError, match="class labels are needed"):
        open_source(path, num_classes=2, need_labels=True)
    (tmp_path / "images" / "b.png").unlink()
    with pytest.raises(LampqError, match=r"but it is not in"):
        open_source(path, num_classes=None, need_labels=False)
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(LampqError, match=r"are not found"):
        open_source(path, num_classes=None, need_labels=False)
    path.write_text("{")
    with pytest.raises(LampqError, match="not JSON"):
        open_source(path, num_classes=None, need_labels=False)


@pytest.mark.parametrize("mode", ["squash", "center", "letterbox"])
@pytest.mark.parametrize("shape", [(40, 60), (90, 30), (32, 32)])
def test_a_drawn_box_lies_where_the_placement_says(mode: Any, shape: tuple[int, int]) -> None:
    preprocessing = Preprocessing(
        size=(32, 48), crop_pct=0.9 if mode == "center" else 1, crop_mode=mode, interpolation="box",
        mean=(0.0,), std=(1.0,), channels=1,
    )  # fmt: skip
    pixels = np.zeros(shape, np.uint8)
    top, left, high, wide = shape[0] // 2 - 6, shape[1] // 2 - 5, 12, 10
    pixels[top : top + high, left : left + wide] = 255
    rows, columns = np.nonzero(preprocessing.crop(Image.fromarray(pixels))[..., 0] > 127)
    place = preprocessing.placement(*shape)
    box = place.to_input(np.array([[left, top, wide, high]], float))
    seen = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    assert box[0] == pytest.approx(seen, abs=1.01)
    assert place.to_image(box)[0] == pytest.approx([left, top, wide, high])


def test_a_letterbox_fills_with_the_mean() -> None:
    preprocessing = Preprocessing(
        size=(10, 10), crop_pct=1, crop_mode="letterbox", interpolation="bilinear", mean=(0.5, 0.2, 0.0),
        std=(1, 1, 1), channels=3,
    )  # fmt: skip
    crop = preprocessing.crop(Image.fromarray(np.full((5, 20, 3), 200, np.uint8)))
    assert (crop[:2] == 200).all()
    assert (crop[3:] == [128, 51, 0]).all()
