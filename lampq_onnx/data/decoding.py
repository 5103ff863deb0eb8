"""Decode image files to 8-bit pixels; errors name the file."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lampq_onnx.errors import LampqError

Pixels = Image.Image | NDArray[np.uint8]
"""A Pillow image, or an array (h, w, channels) with any number of channels."""

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

# Decoders are chosen by content, so the list is closed: some others in Pillow start programs (EPS).
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


def is_image_name(name: str) -> bool:
    """Whether a file name has one of `EXTENSIONS`, in any case."""
    return name.lower().endswith(EXTENSIONS)


def decode(path: Path) -> Image.Image:
    """Read the first frame of an image file.

    The EXIF orientation is ignored, as in timm and torchvision: the pixels come as they are stored.

    Returns:
        The image, fully loaded, 8 bits per channel, in any such mode (RGB, L, P, RGBA, CMYK, ...); the file is closed.

    Raises:
        LampqError: the file is missing, empty, truncated, not an image or larger than Pillow's pixel limit, or its
            pixels have no defined 8-bit form.
    """
    return _read(path, str(path))


def decode_bytes(data: bytes, name: str) -> Image.Image:
    """Read the first frame of an image that is in memory, see `decode`.

    Args:
        data: what a file would hold.
        name: for messages.

    Raises:
        LampqError: see `decode`.
    """
    return _read(io.BytesIO(data), name)


def _read(path: Path | io.BytesIO, name: str) -> Image.Image:
    try:
        # Between its limit and twice that, Pillow only warns; here the limit is an error.
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                image.load()
                return eight_bit(image).copy()
    except LampqError as error:
        raise LampqError(f"cannot use the image {name}: {error.message}", hint=error.hint) from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = Image.MAX_IMAGE_PIXELS
        raise LampqError(
            f"the image {name} has more than the {limit} pixels that are safe to decode",
            hint="scale it down or remove it",
        ) from error
    except Exception as error:  # decoders raise almost anything on damaged bytes
        raise LampqError(
            f"cannot read the image {name}: {_reason(path, error)}", hint="replace or remove the file"
        ) from error


def eight_bit(image: Image.Image) -> Image.Image:
    """Bring an image with more than 8 bits per channel to mode L; return any other unchanged.

    Pillow's own conversion clips these modes at 255, which turns most 16-bit images white. Here 16-bit values
    are scaled (65535 becomes 255). Mode I is read as 16 bits, because Pillow delivers 16-bit files so
    if it has no narrower mode for them. Mode F is read as 0..1 if all values lie there, else as 0..255.

    Raises:
        LampqError: values are outside those ranges, or not finite.
    """
    if image.mode in _SIXTEEN_BIT or image.mode == "I":
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise LampqError("its integer pixels are outside 0..65535", hint="convert it to an 8-bit image")
        return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode == "F":
        real = np.asarray(image, dtype=np.float64)
        if not np.isfinite(real).all() or real.min() < 0 or real.max() > 255:
            raise LampqError("its floating-point pixels are outside 0..255", hint="convert it to an 8-bit image")
        return Image.fromarray(np.rint(real * 255 if real.max() <= 1 else real).astype(np.uint8))
    return image


def to_mode(image: Image.Image, channels: int) -> Image.Image:
    """Convert to RGB (``channels`` 3) or L (1); alpha is dropped, not blended.

    Raises:
        LampqError: the pixels have no 8-bit form, see `eight_bit`.
    """
    mode = "RGB" if channels == 3 else "L"
    image = eight_bit(image)
    if image.mode == "P" and "transparency" in image.info:
        # This gives the pixels of the direct conversion, without Pillow's warning about the transparency.
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)


def planes(image: Pixels, channels: int) -> list[Image.Image]:
    """Return a Pillow image as one image of 3 or 1 channels, or an array as one image per channel.

    Raises:
        LampqError: the pixels have no 8-bit form, see `eight_bit`; a Pillow image is given and the model takes neither
            3 channels nor 1; or an array has another number of channels than the model takes.
    """
    if isinstance(image, Image.Image):
        if channels not in (1, 3):
            raise LampqError(
                f"it is an ordinary picture, but the model takes {channels} channels",
                hint=f"save the images as a uint8 array (N,H,W,{channels}) named images in an .npz file",
            )
        return [to_mode(image, channels)]
    given = image.shape[2]
    if channels in (1, 3) and given in (3, 4):
        return [to_mode(Image.fromarray(image), channels)]
    if given != channels:
        raise LampqError(
            f"it has {given} channel{'s' if given > 1 else ''}, but the model takes {channels}",
            hint=f"save the images as a uint8 array (N,H,W,{channels})",
        )
    return [Image.fromarray(np.ascontiguousarray(image[..., index])) for index in range(channels)]


def _reason(path: Path | io.BytesIO, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        empty = (len(path.getbuffer()) if isinstance(path, io.BytesIO) else path.stat().st_size) == 0
        return "the file is empty" if empty else f"it is not an image of a known kind ({', '.join(_FORMATS)})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
