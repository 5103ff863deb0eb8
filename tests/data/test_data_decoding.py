from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lampq_onnx.data.decoding import decode, eight_bit, to_mode
from lampq_onnx.errors import LampqError

WriteImage = Callable[..., Path]


def test_jpeg_pixels_and_closed_file(tmp_path: Path, write_image: WriteImage) -> None:
    path = write_image(tmp_path / "a.jpg")
    image = decode(path)
    path.unlink()
    assert image.size == (6, 8)
    assert np.array(image).shape == (8, 6, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"hello, this is text", "not an image of a known kind"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known kind"),
        (b"\x89PNG\r\n\x1a\nnonsense", "cannot read the image"),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(LampqError, match=message) as caught:
        decode(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize("extension", ["jpg", "png", "bmp", "gif", "tif", "webp"])
def test_truncated_files_are_named(tmp_path: Path, write_image: WriteImage, extension: str) -> None:
    path = write_image(tmp_path / f"cut.{extension}", size=(64, 64))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(LampqError, match=r"cannot read the image .*cut"):
        decode(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(LampqError, match="No such file"):
        decode(tmp_path / "gone.png")


@pytest.mark.parametrize("limit", [40, 20])  # 48 pixels: Pillow warns at the first and raises at the second
def test_decompression_bomb(
    tmp_path: Path, write_image: WriteImage, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    path = write_image(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(LampqError, match=f"more than the {limit} pixels") as caught:
        decode(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_scaled(tmp_path: Path, name: str) -> None:
    wide = np.array([[0, 128, 129, 256], [257, 32896, 65534, 65535]], dtype=np.uint16)
    Image.fromarray(wide).save(tmp_path / name)
    image = decode(tmp_path / name)
    assert image.mode == "L"
    np.testing.assert_array_equal(np.array(image), [[0, 0, 1, 1], [1, 128, 255, 255]])


def test_integer_and_float_modes() -> None:
    whole = Image.fromarray(np.array([[0, 65535]], dtype=np.int32))
    np.testing.assert_array_equal(np.array(eight_bit(whole)), [[0, 255]])
    layer = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    np.testing.assert_array_equal(np.array(eight_bit(layer)), [[0, 128, 255]])
    bytes_ = Image.fromarray(np.array([[0.0, 7.4, 255.0]], dtype=np.float32))
    np.testing.assert_array_equal(np.array(eight_bit(bytes_)), [[0, 7, 255]])


@pytest.mark.parametrize(
    "pixels",
    [
        np.array([[-1]], np.int32),
        np.array([[65536]], np.int32),
        np.array([[np.nan]], np.float32),
        np.array([[-0.1]], np.float32),
        np.array([[300.0]], np.float32),
    ],
)
def test_pixels_without_an_eight_bit_form(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "range.tif"
    Image.fromarray(pixels).save(path)
    with pytest.raises(LampqError, match=r"range.tif: its .* outside"):
        decode(path)


def test_animation_gives_the_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "lime", "blue")]
    path = tmp_path / "moving.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert np.array(to_mode(decode(path), 3)).reshape(-1, 3).tolist() == [[255, 0, 0]] * 16


def test_exif_orientation_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    Image.new("RGB", (10, 4)).save(path, exif=exif)
    assert decode(path).size == (10, 4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_modes_convert_as_pillow_does(mode: str, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    wanted = image.convert("RGB" if channels == 3 else "L")
    np.testing.assert_array_equal(np.array(to_mode(image, channels)), np.array(wanted))


def test_palette_with_transparency_does_not_warn(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20).convert("P")
    path = tmp_path / "palette.png"
    image.save(path, transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        converted = to_mode(decode(path), 3)
    np.testing.assert_array_equal(np.array(converted), np.array(image.convert("RGB")))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "print.jpg"
    Image.new("RGB", (8, 8), (200, 30, 40)).convert("CMYK").save(path, quality=95)
    pixel = np.array(to_mode(decode(path), 3))[4, 4].astype(int)
    assert np.abs(pixel - [200, 30, 40]).max() <= 6
