"""How images are prepared, in the words of the image processor of transformers.js."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from PIL import Image

from lampq_onnx.data import Preprocessing
from lampq_onnx.errors import LampqError

PREPROCESSOR_CONFIG = "preprocessor_config.json"
GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in Pillow's grey."""


def preprocessor_config(images: Preprocessing, path: Path) -> dict[str, Any]:
    """Return the values of `PREPROCESSOR_CONFIG`.

    The library multiplies by a factor, subtracts the mean and divides by the standard deviation, each in the order red,
    green, blue, and swaps the channels last. It pads after that, with 0, which is the mean.

    Args:
        images: what the model expects.
        path: the model's file, for messages.

    Raises:
        LampqError: the library has no such resizing, or no images with that number of channels.
    """
    if images.channels not in (1, 3):
        raise LampqError(
            f"{path} takes images with {images.channels} channels, and transformers.js has only those with colors",
            hint="give arrays to onnxruntime-web instead",
        )
    mean = [value - images.rescale_offset for value in images.mean]
    std = list(images.std)
    if images.channel_order == "bgr":
        mean, std = mean[::-1], std[::-1]
    if images.channels == 1:
        mean, std = mean * len(GREY), std * len(GREY)
    return {
        "image_processor_type": "ImageProcessor",
        **_geometry(images, path),
        "resample": Image.Resampling[images.interpolation.upper()].value,
        "do_rescale": True,
        "rescale_factor": images.rescale_factor,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
        "do_flip_channel_order": images.channel_order == "bgr",
    }


def _geometry(images: Preprocessing, path: Path) -> dict[str, Any]:
    """Resizing, crop and padding."""
    height, width = images.size
    whole = {"height": height, "width": width}
    if images.resize is not None:
        size: dict[str, Any] = {"do_resize": images.resize.to != "none"}
        if images.resize.to == "stretch":
            size["size"] = dict(zip(("height", "width"), images.resize.sides, strict=True))
        elif images.resize.to != "none":
            size["size"] = {f"{images.resize.to}_edge": images.resize.sides[0]}
        then = images.resize.then
    elif images.crop_mode == "squash":
        before = {name: math.floor(side / images.crop_pct) for name, side in whole.items()}
        size, then = {"do_resize": True, "size": before}, "crop"
    elif height != width:
        raise LampqError(
            f"{path} takes images of {width}x{height} pixels (width x height) and cuts them to that shape, which "
            "transformers.js cannot do",
            hint="resize both sides on their own (--crop squash), or give arrays to onnxruntime-web",
        )
    elif images.crop_mode == "letterbox":
        size, then = {"do_resize": True, "size": {"longest_edge": height}}, "pad"
    else:
        size, then = {"do_resize": True, "size": {"shortest_edge": math.floor(height / images.crop_pct)}}, "crop"
    if then == "crop":
        size |= {"do_center_crop": True, "crop_size": whole}
    elif then == "pad":
        size |= {"do_pad": True, "pad_size": whole}
    return size
