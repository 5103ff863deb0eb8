"""Measure the average precision of a detector as it is stored, and write its folder.

The training needs only torch, transformers and NumPy. So this computes COCO's definition without COCO's package, which
the benchmark uses.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tools.detector.batch_norms import as_stored
from tools.detector.data import MEAN, STD, VALIDATION_SEED, normalized, to_tensors
from tools.detector.loss import corners
from tools.scenes import CLASSES, SIZE, Scene


class Judge:
    """Evaluates the averaged weights as they are stored, and keeps the best ones in the folder."""

    def __init__(self, scenes: list[Scene], device: torch.device, folder: Path, *, background: bool) -> None:
        self._scenes = scenes
        self._images, _ = to_tensors(scenes, device)
        self._folder = folder
        self._background = background
        self._best = -1.0
        self.bytes = 0

    def __call__(self, model: Any, step: int) -> str:
        """Evaluate, save if it is the best so far; returns the figures as text."""
        stored = as_stored(model)
        found = detections(stored, self._images, background=self._background)
        at50, at75 = (average_precision(found, self._scenes, threshold) for threshold in (0.5, 0.75))
        if at50 + at75 > self._best:
            self._best = at50 + at75
            device = self._images.device
            self.bytes = save(stored, self._folder, {
                "command": "python -m tools.train_detector " + shlex.join(sys.argv[1:]),
                "torch": torch.__version__,
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
                "step": step,
                "validation_seed": VALIDATION_SEED,
                "validation_scenes": len(self._scenes),
                "AP50": round(at50, 4),
                "AP75": round(at75, 4),
            })  # fmt: skip
        return f"AP50 {at50:.4f}  AP75 {at75:.4f}"


@torch.inference_mode()
def detections(
    model: Any, images: torch.Tensor, *, background: bool = True
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Scores (n, q), classes (n, q) and boxes (n, q, 4), left, top, right, bottom as shares of the image."""
    scores, classes, boxes = [], [], []
    for part in images.split(100):
        answer = model(normalized(part))
        logits = answer.logits.float()
        score, kind = (logits.softmax(-1)[..., :-1] if background else logits.sigmoid()).max(-1)
        scores.append(score)
        classes.append(kind)
        boxes.append(torch.cat(corners(answer.pred_boxes.float()), -1))
    return tuple(torch.cat(values).cpu().numpy() for values in (scores, classes, boxes))  # type: ignore[return-value]


def average_precision(found: tuple[np.ndarray, ...], scenes: list[Scene], threshold: float) -> float:
    """Mean over classes of the precision interpolated at 101 recalls, as COCO defines it."""
    scores, classes, boxes = found
    values = []
    for kind in range(len(CLASSES)):
        truth = [each.boxes[each.classes == kind] / SIZE for each in scenes]
        total = sum(map(len, truth))
        taken = [np.zeros(len(own), dtype=bool) for own in truth]
        image, query = np.nonzero(classes == kind)
        right = []
        for i, q in sorted(zip(image, query, strict=True), key=lambda pair: -scores[pair]):
            overlaps = np.array([iou(boxes[i, q], own) for own in truth[i]])
            overlaps[taken[i]] = -1
            best = int(overlaps.argmax()) if len(overlaps) else -1
            hit = best >= 0 and overlaps[best] >= threshold
            if hit:
                taken[i][best] = True
            right.append(hit)
        hits = np.cumsum(right)
        recall, precision = hits / max(total, 1), hits / np.arange(1, len(hits) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
        values.append(np.where(at < len(precision), np.append(precision, 0)[np.minimum(at, len(precision))], 0).mean())
    return float(np.mean(values))


def iou(box: np.ndarray, other: np.ndarray) -> float:
    """IoU of boxes (left, top, right, bottom) with boxes (left, top, width, height)."""
    low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[:2] + other[2:])
    shared = np.clip(high - low, 0, None).prod()
    return float(shared / ((box[2:] - box[:2]).prod() + other[2:].prod() - shared))


def save(model: Any, folder: Path, record: dict[str, object]) -> int:
    """Write the folder with float16 weights; returns the bytes of the weights."""
    model.half().save_pretrained(folder)
    preprocessor = {
        "image_processor_type": "YolosImageProcessor",
        "do_resize": True,
        "size": {"height": SIZE, "width": SIZE},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
        "do_pad": False,
    }
    for name, content in (("preprocessor_config.json", preprocessor), ("training.json", record)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    return (folder / "model.safetensors").stat().st_size
