"""Check that the packaged .ort file answers as the ONNX file does: python same_answers.py model.onnx FOLDER"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

IMAGES = 16
MOST = 1e-5
"""Largest difference between outputs: one kernel on one machine."""


def main(model: Path, folder: Path) -> int:
    (packaged,) = folder.glob("*.ort")
    first, second = (ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]) for path in (model, packaged))
    (wanted,) = first.get_inputs()
    shape = [size if isinstance(size, int) else IMAGES for size in wanted.shape]
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    one, two = (session.run(None, {wanted.name: images})[0] for session in (first, second))
    difference = float(np.abs(one - two).max())
    print(f"{packaged.name}: outputs of {len(images)} images differ by at most {difference:.2g}")
    return int(not difference <= MOST)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), Path(sys.argv[2])))
