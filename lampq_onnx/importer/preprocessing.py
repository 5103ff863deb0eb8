"""Finds the preprocessing of a foreign file's images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir

from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.data import Preprocessing
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.graph.keys import PREPROCESSING_KEY
from lampq_onnx.graph.metadata import read_metadata
from lampq_onnx.importer.processors import plain_preprocessing, preprocessing_of, read_processor_file
from lampq_onnx.importer.refusals import image_input


def is_onnx_file(name: str) -> bool:
    """Whether the name of a model is that of an ONNX file."""
    return name.endswith(".onnx")


Compare = Callable[[Path, Mapping[str, Any], Preprocessing], None]
"""Compares our reading of a processor's settings with the real processor.

Called with the settings file, the settings and our reading; raises UnsupportedKey if the reading is wrong.
"""


def file_preprocessing(
    model: ir.Model, path: Path, images: ImageOptions, *, pixels: bool = False, compare: Compare | None = None
) -> Preprocessing:
    """Find the preprocessing in the file, in the processor's settings beside it, or in the options, in this order.

    Options that are given override the settings.

    Args:
        model: content of the file.
        path: path of the file.
        images: the options.
        pixels: whether the graph takes pixels from 0 to 255 and normalizes them itself.
        compare: checks our reading of the settings beside the file.

    Raises:
        UsageError: the normalization or the size of the images is not known.
        LampqError: the settings are damaged, have an unsupported key, or give another size than the file.
    """
    if PREPROCESSING_KEY in model.metadata_props:
        return read_metadata(model, path).preprocessing
    if pixels:
        images = images.model_copy(update=_raw(images, image_input(model, path)))
    shape = image_input(model, path).shape
    assert shape is not None
    channels, height, width = (d if isinstance(d, int) else None for d in shape[1:])
    size = (height, width) if height and width else None
    fixed = [(own, asked) for own, asked in zip((height, width), images.input_size or (), strict=False) if own]
    if any(own != asked for own, asked in fixed):
        assert images.input_size is not None
        raise UsageError(
            f"{path} takes images of {height or 'any'}x{width or 'any'} pixels (height x width), and --input-size is "
            f"{images.input_size[0]}x{images.input_size[1]}",
            hint="leave out --input-size, or export the model for that size",
        )
    settings = read_processor_file(path.parent)
    if settings is None:
        return _unscaled(plain_preprocessing(str(path), channels=channels, size=size, images=images), pixels=pixels)
    said, source = settings
    found = preprocessing_of(
        said,
        str(source),
        channels=channels,
        configured=size,
        images=images,
        compare=None if compare is None else partial(compare, source, said),
    )
    if size is not None and found.size != size:
        raise LampqError(
            f"{path} takes images of {size[0]}x{size[1]} pixels (height x width), and {source} makes them "
            f"{found.size[0]}x{found.size[1]}",
            hint="use the settings that belong to this file, or export it for that size",
        )
    return _unscaled(found, pixels=pixels)


def _raw(images: ImageOptions, value: ir.Value) -> dict[str, object]:
    """Mean 0 and standard deviation 1 for every channel.

    Raises:
        UsageError: --mean or --std is given.
    """
    if images.mean is not None or images.std is not None:
        raise UsageError(
            f"the input {value.name} takes uint8 pixels, which the graph normalizes itself",
            hint="leave out --mean and --std",
        )
    count = value.shape[1] if value.shape is not None else 3
    channels = count if isinstance(count, int) else 3
    return {"mean": (0.0,) * channels, "std": (1.0,) * channels}


def _unscaled(found: Preprocessing, *, pixels: bool) -> Preprocessing:
    """The preprocessing whose result are pixels from 0 to 255, if the graph takes those."""
    return found.model_copy(update={"rescale_factor": 1.0, "rescale_offset": 0.0}) if pixels else found
