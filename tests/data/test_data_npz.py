from __future__ import annotations

import tempfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lampq_onnx.data import open_source
from lampq_onnx.errors import LampqError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
LABELS = np.array([0, 9, 3, 3, 1])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4, 12])
@pytest.mark.parametrize("order", ["C", "F"])
def test_pixels_and_labels(tmp_path: Path, save: Any, channels: int | None, order: Any) -> None:
    shape = (5, 4, 6) if channels is None else (5, 4, 6, channels)
    images = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    save(tmp_path / "a.npz", images=np.asarray(images, order=order), labels=LABELS.astype(np.uint8))
    source = open_source(tmp_path / "a.npz", num_classes=10, need_labels=True)
    assert len(source) == 5
    assert source.labels is not None
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == LABELS.tolist()
    assert source.name(3) == "a.npz[3]"
    picture = source.image(2)
    assert getattr(picture, "mode", "array") == {None: "L", 1: "L", 3: "RGB"}.get(channels, "array")
    for i in range(5):
        np.testing.assert_array_equal(np.array(source.image(i)), images[i].squeeze())


def test_labels_are_optional_unless_needed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=IMAGES)
    assert open_source(path, num_classes=10, need_labels=False).labels is None
    with pytest.raises(LampqError, match=r"no array 'labels' \(it has: images\)"):
        open_source(path, num_classes=10, need_labels=True)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": IMAGES}, "no array 'images'"),
        ({"images": IMAGES.astype(np.float32)}, "dtype float32, not uint8"),
        ({"images": np.array([{}], dtype=object)}, "dtype object, not uint8"),
        ({"images": IMAGES[None]}, r"shape \(1, 5, 4, 6, 3\)"),
        ({"images": IMAGES[0, 0]}, r"shape \(6, 3\)"),
        ({"images": IMAGES[:0]}, "holds no images"),
        ({"images": IMAGES[:, :0]}, "holds no images"),
        ({"images": IMAGES, "labels": LABELS[:4]}, "5 images and 4 labels"),
        ({"images": IMAGES, "labels": LABELS.astype(np.float32)}, "dtype float32"),
        ({"images": IMAGES, "labels": LABELS > 0}, "dtype bool"),
        ({"images": IMAGES, "labels": LABELS.astype(object)}, "pickle"),
        ({"images": IMAGES, "labels": LABELS[:, None]}, r"shape \(5, 1\)"),
        ({"images": IMAGES, "labels": LABELS + 1}, r"labels\[1\] is 10, which is not below the model's 10"),
        ({"images": IMAGES, "labels": -LABELS}, r"labels\[1\] is -9, which is negative"),
        (
            {"images": IMAGES, "labels": np.full(5, 2**64 - 1, np.uint64)},
            r"labels\[0\] is 18446744073709551615",
        ),
    ],
)
def test_refusals(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(LampqError, match=message) as caught:
        open_source(path, num_classes=10, need_labels="labels" in arrays)
    assert str(path) in caught.value.message


def test_labels_that_are_not_needed_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=IMAGES, labels=np.array([{"no": "number"}] * 4, dtype=object))
    source = open_source(path, num_classes=10, need_labels=False)
    assert source.labels is None
    assert len(source) == 5


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=IMAGES, labels=LABELS)
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[300] ^= 1
    header = data.replace(b"(5, 4, 6, 3)", b"(9, 4, 6, 3)")
    for damage in (b"", b"text", data[: len(data) // 2], bytes(flipped), header):
        path.write_bytes(damage)
        with pytest.raises(LampqError, match=r"a\.npz is not a usable \.npz file"):
            open_source(path, num_classes=10, need_labels=False)


def test_header_that_promises_more_than_there_is(tmp_path: Path) -> None:
    import io

    buffer = io.BytesIO()
    np.save(buffer, IMAGES)
    for shape in (b"(9, 4, 6, 3)", b"(5,4,-6, 3)", b"(999999999,)"):
        content = buffer.getvalue().replace(b"(5, 4, 6, 3)", shape)
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("images.npy", content)
        with pytest.raises(LampqError, match=r"a\.npz"):
            open_source(tmp_path / "a.npz", num_classes=10, need_labels=False)


def test_images_over_the_pixel_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    np.savez(tmp_path / "a.npz", images=IMAGES)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(LampqError, match="24 pixels; the limit is 20"):
        open_source(tmp_path / "a.npz", num_classes=10, need_labels=False)


def test_no_room_to_unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", images=IMAGES)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(LampqError, match=r"cannot read .* or unpack it") as caught:
        open_source(tmp_path / "a.npz", num_classes=10, need_labels=False)
    assert "TMPDIR" in caught.value.hint


def test_memory_does_not_hold_the_images(tmp_path: Path) -> None:
    images = np.zeros((400, 128, 128, 3), np.uint8)  # about 20 MB
    np.savez_compressed(tmp_path / "big.npz", images=images)
    del images
    tracemalloc.start()
    source = open_source(tmp_path / "big.npz", num_classes=None, need_labels=False)
    for i in range(len(source)):
        source.image(i)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
