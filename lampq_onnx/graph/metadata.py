"""Read and write what a float or quantized file records about itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from pydantic import ValidationError

from lampq_onnx.artifacts.task import CLASSIFICATION, TaskSpec
from lampq_onnx.data import Preprocessing
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.keys import CLASSES_KEY, MODEL_KEY, PREPROCESSING_KEY, TASK_KEY


@dataclass(frozen=True)
class FileFacts:
    """Facts about a model that later stages need.

    Attributes:
        name: name of the model.
        preprocessing: preprocessing of its images.
        num_classes: number of classes; None if the file does not say.
        task: meaning of its outputs.
    """

    name: str
    preprocessing: Preprocessing
    num_classes: int | None
    task: TaskSpec


def write_metadata(
    model: ir.Model,
    name: str,
    preprocessing: Preprocessing,
    num_classes: int | None,
    task: TaskSpec = CLASSIFICATION,
) -> None:
    """Store the facts, so that later stages need neither timm nor the same options again."""
    model.metadata_props[MODEL_KEY] = name
    if num_classes is not None:
        model.metadata_props[CLASSES_KEY] = str(num_classes)
    model.metadata_props[PREPROCESSING_KEY] = preprocessing.model_dump_json()
    model.metadata_props[TASK_KEY] = task.model_dump_json()


def read_metadata(model: ir.Model, path: Path) -> FileFacts:
    """Read the facts from a model's metadata.

    Raises:
        LampqError: the file does not say how its images are prepared.
    """
    props = model.metadata_props
    text = props.get(PREPROCESSING_KEY)
    if text is None:
        raise LampqError(
            f"{path} does not say how to prepare images (metadata {PREPROCESSING_KEY})",
            hint="use a float.onnx that lampq-onnx wrote",
        )
    try:
        preprocessing = Preprocessing.model_validate_json(text)
    except ValidationError as error:
        raise LampqError(f"{path}: the metadata {PREPROCESSING_KEY} is damaged") from error
    classes = props.get(CLASSES_KEY, "")
    return FileFacts(
        name=props.get(MODEL_KEY, path.stem),
        preprocessing=preprocessing,
        num_classes=int(classes) if classes.isdigit() else None,
        task=read_task(model, path) or CLASSIFICATION,
    )


def read_task(model: ir.Model, path: Path) -> TaskSpec | None:
    """Read the task stored in a file; None if there is none.

    Raises:
        LampqError: the metadata is damaged.
    """
    text = model.metadata_props.get(TASK_KEY)
    try:
        return None if text is None else TaskSpec.model_validate_json(text)
    except ValidationError as error:
        raise LampqError(f"{path}: the metadata {TASK_KEY} is damaged") from error
