"""What a foreign file's images go through, from wherever that is written down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx_ir as ir
from pydantic import ValidationError

from lampq_onnx.data import Preprocessing
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.files import read_text
from lampq_onnx.importer.refusals import image_input
from lampq_onnx.metadata import read_metadata
from lampq_onnx.metadata_keys import PREPROCESSING_KEY
from lampq_onnx.options import ImageOptions

SIDECAR = "preprocessor_config.json"
"""What Hugging Face writes beside a model."""

CROP = 0.9
"""Share of the image that is kept where nothing says so, timm's for ViTs."""

SIDECAR_LIMIT = 2**20
"""Bytes of a preprocessor_config.json."""

_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers, which the sidecar uses."""


def is_onnx_file(name: str) -> bool:
    """Whether a model's name is that of an ONNX file."""
    return name.endswith(".onnx")


def file_preprocessing(model: ir.Model, path: Path, images: ImageOptions) -> Preprocessing:
    """What the file says, else the sidecar beside it, else the options; options come before both.

    Raises:
        UsageError: nothing says how images are normalized, or how large they are.
        LampqError: the sidecar is damaged, or says another size than the file.
    """
    if PREPROCESSING_KEY in model.metadata_props:
        return read_metadata(model, path).preprocessing
    said = _sidecar(path.parent / SIDECAR)
    shape = image_input(model, path).shape
    assert shape is not None
    channels, height, width = (d if isinstance(d, int) else None for d in shape[1:])
    size = (height, width) if height and width else said.get("size")
    if size is None:
        raise UsageError(
            f"{path} takes images of any size, and nothing says which one it was trained on",
            hint=f"export it with a fixed height and width, or put its {SIDECAR} beside it",
        )
    mean, std = images.mean or said.get("mean"), images.std or said.get("std")
    if mean is None or std is None:
        raise UsageError(
            f"{path} does not say how its images are normalized",
            hint="give --mean and --std (ImageNet's are 0.485,0.456,0.406 and 0.229,0.224,0.225), or put its "
            f"{SIDECAR} beside it",
        )
    try:
        return Preprocessing.model_validate(
            {
                "size": size,
                "crop_pct": images.crop or said.get("crop_pct", CROP),
                "crop_mode": said.get("crop_mode", "center"),
                "interpolation": said.get("interpolation", "bicubic"),
                "mean": tuple(mean),
                "std": tuple(std),
                "channels": channels or len(mean),
            }
        )
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise LampqError(f"the preprocessing of {path} is not supported: {where}: {problem['msg']}") from error


def _sidecar(path: Path) -> dict[str, Any]:
    """The facts of a preprocessor_config.json; empty if there is none.

    A plain resize to the size, the usual one of ViTs there, does not keep the aspect ratio.
    """
    if not path.is_file():
        return {}
    try:
        data = json.loads(read_text(path, "the preprocessing", limit=SIDECAR_LIMIT))
        found: dict[str, Any] = {"crop_mode": "center" if data.get("do_center_crop") else "squash", "crop_pct": 1.0}
        if data.get("do_normalize", True) and "image_mean" in data:
            found |= {"mean": data["image_mean"], "std": data["image_std"]}
        resized, cropped = _side(data.get("size")), _side(data.get("crop_size"))
        size = cropped if data.get("do_center_crop") and cropped else resized
        if size is not None:
            found["size"] = size
        if data.get("do_center_crop") and resized and cropped:
            found["crop_pct"] = min(1.0, cropped[0] / resized[0])
        if "resample" in data:
            found["interpolation"] = _RESAMPLE[data["resample"]]
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise LampqError(f"{path} is damaged or of an unknown form: {type(error).__name__}: {error}") from error
    return found


def _side(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict) and "height" in size:
        return int(size["height"]), int(size["width"])
    if isinstance(size, dict) and "shortest_edge" in size:
        return int(size["shortest_edge"]), int(size["shortest_edge"])
    return None
