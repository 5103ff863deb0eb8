"""Reads the files in which a folder stores its image preprocessing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lampq_onnx.disk.files import read_text
from lampq_onnx.errors import LampqError

NESTED, PLAIN = "processor_config.json", "preprocessor_config.json"

PROCESSOR_FILES = (NESTED, PLAIN)
"""Names of the files, in the order in which they are tried."""

LIMIT = 2**20
"""Largest size of such a file in bytes."""

_IMAGE_PARTS = ("image_processor", "feature_extractor")
_OTHER_PARTS = ("video_processor", "audio_processor")
_IMAGE_KEYS = frozenset({"image_processor_type", "feature_extractor_type", "image_mean", "size", "do_resize"})


def read_processor_file(folder: Path) -> tuple[dict[str, Any], Path] | None:
    """Read the settings of a folder's image processor; returns them and their file, or None if there are none.

    As in transformers, settings for images in processor_config.json take precedence over preprocessor_config.json.

    Raises:
        LampqError: a file is damaged, or only has settings for videos.
    """
    for name in PROCESSOR_FILES:
        path = folder / name
        if not path.is_file():
            continue
        found = _image_part(_json(path), path)
        if found is not None:
            return found, path
    return None


def _image_part(data: dict[str, Any], path: Path) -> dict[str, Any] | None:
    for part in _IMAGE_PARTS:
        inner = data.get(part)
        if isinstance(inner, dict) and _IMAGE_KEYS & inner.keys():
            return dict(inner)
    if path.name == PLAIN or _IMAGE_KEYS & data.keys():
        if "video_processor_type" in data:
            raise LampqError(
                f"{path}: video_processor_type: it is for videos, but only models of single images are supported"
            )
        return data
    other = next((part for part in _OTHER_PARTS if part in data), None)
    if other is not None and not (path.parent / PLAIN).is_file():
        raise LampqError(
            f"{path} has {other} and no image_processor", hint="only models of single images are supported"
        )
    return None


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(read_text(path, "the preprocessing", limit=LIMIT))
    except (ValueError, RecursionError) as error:
        raise LampqError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    if not isinstance(data, dict):
        raise LampqError(f"{path} is damaged: it holds a {type(data).__name__}, not keys and values")
    return data
