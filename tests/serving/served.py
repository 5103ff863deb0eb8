"""What the tests of packages share: how the tiny model's images are prepared, and what a file answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from lampq_onnx.data import Preprocessing
from tests.converter.graphs import SIDE


def preprocessing(**changes: object) -> Preprocessing:
    """How images for the tiny Vision Transformer are prepared, with some of it changed."""
    facts = {
        "size": (SIDE, SIDE), "crop_pct": 1.0, "crop_mode": "center", "interpolation": "bicubic", "channels": 3,
        "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25),
    }  # fmt: skip
    return Preprocessing.model_validate(facts | changes)


def answers(path: Path, images: np.ndarray) -> np.ndarray:
    """First output of a file for images."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: images})[0])
