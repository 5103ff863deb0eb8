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
    "features",
    "sequence",
]

Kind = TaskName | Literal["several"]
"""A task of one output, or `SEVERAL`."""

SEVERAL: Literal["several"] = "several"
"""Kind of a task with several outputs that are scored together; each of them has a task of its own."""

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
    "features": "vectors that another program reads: of tokens, of images, or of positions in a map",
    "sequence": "one class for each step, such as the characters of a text",
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
            (n, queries, classes) and boxes (n, queries, 4), centre, width and height as shares of the input; features:
            numbers of any shape (n, ...), with channels along the last axis, or along the second one of maps; sequence:
            scores (n, steps, classes) of a softmax at each step; several: as `parts` says.
        outputs: names of graph outputs, in this order; several are joined along their last axis, or flattened if their
            other axes differ.
        background: detection: whether the scores come from a softmax whose last class is "no object" (DETR, YOLOS), or
            from sigmoids (RT-DETR).
        classes: class names, if known.
        spread: regression, dense-regression and features: standard deviation of each output (channel) of the float
            model over the calibration images, in the output's unit; empty until it is measured.
        blank: sequence: the class that stands for no character; None until it is measured.
        parts: several: the task of each output, in the order of `outputs`.
        shape: a part: the shape of its output for one image.
        fallback: whether features were chosen because the outputs fit no other task.
    """

    kind: Kind = "classification"
    outputs: tuple[str, ...] = (LOGITS,)
    background: bool = True
    classes: tuple[str, ...] = ()
    spread: tuple[float, ...] = ()
    blank: int | None = None
    parts: tuple[TaskSpec, ...] = ()
    shape: tuple[int, ...] = ()
    fallback: bool = False

    @property
    def reason(self) -> str:
        """Why this task was chosen, if nothing shows it; empty otherwise."""
        return FALLBACK if self.fallback else ""

    @property
    def has_unit(self) -> bool:
        """Whether errors of the outputs are measured in units of their spread."""
        return self.takes_numbers or self.kind == "features"

    @property
    def takes_numbers(self) -> bool:
        """Whether labels that are numbers in the shape of the outputs are the truth of the scores."""
        return self.kind in ("regression", "dense-regression")


FALLBACK = "nothing shows another task; --task names it"
"""Why features were chosen."""

CLASSIFICATION = TaskSpec()
