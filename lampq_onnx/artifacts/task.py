"""The task of a model: which outputs are used, and how they are read."""

from __future__ import annotations

from typing import Literal

from lampq_onnx.disk.records import Record

TaskName = Literal[
    "classification",
    "binary",
    "multi-label",
    "regression",
    "embedding",
    "segmentation",
    "binary-segmentation",
    "dense-regression",
    "detection",
]

TASKS: dict[TaskName, str] = {
    "classification": "one class for each image: scores of a softmax",
    "binary": "yes or no for each image: one logit",
    "multi-label": "several classes for each image: one sigmoid for each class",
    "regression": "one or more real numbers for each image",
    "embedding": "a vector for each image, of which only the direction counts",
    "segmentation": "one class for each pixel",
    "binary-segmentation": "yes or no for each pixel: a mask",
    "dense-regression": "real numbers for each pixel, such as depth",
    "detection": "boxes with classes, as DETR-like models give them",
}
"""Name -> what the outputs of the model are."""

LOGITS, BOXES = "logits", "pred_boxes"
"""Output names of detectors, as transformers names them."""


class TaskSpec(Record):
    """A task, and the meaning of its outputs. It is stored in the metadata of the files.

    Attributes:
        kind: classification: scores (n, classes) of a softmax; binary: one logit (n, 1) of a sigmoid; multi-label:
            scores (n, classes) of sigmoids; regression: real numbers (n, outputs); embedding: (n, d) of which only the
            direction counts; segmentation: scores (n, classes, h, w); binary-segmentation: logits (n, 1, h, w) of
            sigmoids; dense-regression: real numbers at every pixel, (n, channels, h, w) or (n, h, w); detection: scores
            (n, queries, classes) and boxes (n, queries, 4), centre, width and height as shares of the input.
        outputs: names of graph outputs, in this order; several are joined along their last axis.
        background: detection: whether the scores come from a softmax whose last class is "no object" (DETR, YOLOS), or
            from sigmoids (RT-DETR).
        classes: class names, if known.
        spread: regression and dense-regression: standard deviation of each output (channel) of the float model over the
            calibration images, in the output's unit; empty until it is measured.
    """

    kind: TaskName = "classification"
    outputs: tuple[str, ...] = (LOGITS,)
    background: bool = True
    classes: tuple[str, ...] = ()
    spread: tuple[float, ...] = ()

    @property
    def has_unit(self) -> bool:
        """Whether errors of the outputs are measured in units of their spread."""
        return self.kind in ("regression", "dense-regression")


CLASSIFICATION = TaskSpec()
