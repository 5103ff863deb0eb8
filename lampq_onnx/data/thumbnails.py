"""Small JPEG pictures of what a model sees."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from lampq_onnx.data.batched import BatchedImages
from lampq_onnx.data.preprocessing import Preprocessing
from lampq_onnx.data.source import ImageSource

SIDE = 72
"""Longest side of a thumbnail in pixels."""

QUALITY = 80


def thumbnail(source: ImageSource | BatchedImages, preprocessing: Preprocessing, i: int) -> str:
    """Return the crop of image ``i`` as base64 of a JPEG whose longest side is `SIDE`.

    Of more than three channels, the first three are shown as red, green and blue; of two channels, the first in gray.

    Raises:
        LampqError: the image cannot be read or cropped.
    """
    pixels = source.pixels(i) if isinstance(source, BatchedImages) else preprocessing.crop(source.image(i))
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if preprocessing.channels < 3 else pixels[..., :3]))
    ratio = SIDE / max(image.size)
    size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
    # The enlarged pixels of a tiny image stay visible as squares.
    image = image.resize(size, Image.Resampling.BOX if ratio < 1 else Image.Resampling.NEAREST)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY)
    return base64.b64encode(stream.getvalue()).decode()
