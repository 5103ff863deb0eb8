"""`bench`: a file on the device where it will run, with nothing installed there but onnxruntime and NumPy."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.data import choose, iter_batches, open_source
from lampq_onnx.disk.existing import require_new_files
from lampq_onnx.disk.files import FLOAT_FILE
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.metadata import read_metadata
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.runtime import on_device
from lampq_onnx.runtime.device_kit import write_kit
from lampq_onnx.runtime.sessions import example_images

IMAGES = 32
"""Images in a kit. A few show whether the device gives the same answers; the accuracy of a file is `validate`'s."""


def bench(
    model: Path,
    images: ImageOptions,
    *,
    reference: Path | None = None,
    kit: Path | None = None,
    threads: int = 1,
    runs: int = 30,
    overwrite: bool = False,
) -> dict[str, Any] | None:
    """Measure a file on this machine as a device would, or write the kit that a device measures.

    Args:
        model: the quantized file.
        images: images whose answers are compared; without any, noise of the files' size.
        reference: its float file; None: float.onnx in the same folder.
        kit: folder for the kit; None: measure here.
        threads: threads of onnxruntime.
        runs: measured runs; 0 times nothing.
        overwrite: replace the files of a kit that is there.

    Returns:
        The row, see `on_device.measure`; None if a kit is written.

    Raises:
        LampqError: there is no float file, or the files cannot be measured.
    """
    reference = reference or model.parent / FLOAT_FILE
    if not reference.is_file():
        raise LampqError(f"there is no float file {reference}", hint="name it with --reference")
    prepared, real = _prepared(model, images), images.validation is not None
    if kit is not None:
        require_new_files((kit / "kit.json",), overwrite=overwrite)
        kit.mkdir(parents=True, exist_ok=True)
        write_kit(model, reference, prepared, kit, real=real)
        return None
    with TemporaryDirectory(prefix="lampq-") as room:
        write_kit(model, reference, prepared, Path(room), real=real)
        found: dict[str, Any] = on_device.measure(Path(room), threads=threads, runs=runs)
        return found


def _prepared(model: Path, options: ImageOptions) -> npt.NDArray[np.float32]:
    source = options.validation
    if source is None:
        return example_images(model, 1)
    facts = read_metadata(load_model(model), model)
    preprocessing = facts.preprocessing.override(mean=options.mean, std=options.std, crop_pct=options.crop)
    chosen = choose(open_source(source, num_classes=facts.num_classes, need_labels=False), IMAGES, options.seed)
    return np.concatenate([batch.images for batch in iter_batches(chosen, preprocessing, IMAGES)])
