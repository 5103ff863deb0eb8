"""Options of what goes into a run: the model and its images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from lampq_onnx.artifacts.task import TaskName
from lampq_onnx.config.limits import MOST_IMAGES
from lampq_onnx.config.plain_values import plain_arguments
from lampq_onnx.config.readers import (
    MadeImages,
    all_positive,
    calibration_of,
    calibration_text,
    known_device,
    known_model_name,
    not_empty,
    numbers_of,
    possible_sides,
    sides_of,
)
from lampq_onnx.disk.option import IMAGES, MODEL, Option
from lampq_onnx.disk.records import Record

DIGITS = "digits"
"""Name of the embedded model."""

DEFAULT_CALIBRATION_SIZE = 128

Numbers = Annotated[tuple[float, ...] | None, BeforeValidator(numbers_of), AfterValidator(not_empty)]


class ModelOptions(Record):
    """Which model is quantized, and where its weights are."""

    name: Annotated[
        str,
        AfterValidator(known_model_name),
        Option(
            "A timm model name, a folder of a transformers model, a float .onnx file, or digits, the embedded model.",
            MODEL,
            "model",
        ),
    ]
    checkpoint: Annotated[
        Path | None,
        Option(
            "File with the model's weights: .safetensors, its .index.json, or a file that torch.save wrote. Only "
            "tensors are read from it.",
            MODEL,
            level="basic",
            shapes_file=False,
            example="model.safetensors",
        ),
    ] = None
    checkpoint_key: Annotated[
        str | None,
        Field(min_length=1),
        Option(
            "Part of the checkpoint to use if several fit the model, e.g. teacher or state_dict.",
            MODEL,
            shapes_file=False,
            example="state_dict",
        ),
    ] = None
    pretrained: Annotated[bool, Option("Let timm download the model's weights.", MODEL, level="basic")] = False
    model_args: Annotated[
        dict[str, object],
        BeforeValidator(plain_arguments),
        Option(
            "Argument for timm's constructor of the model, e.g. img_size=32,64 (height,width) or depths=[2,2,6,2]. "
            "Repeat the option for several.",
            MODEL,
            "model_arg",
            example={"img_size": [32, 64], "patch_size": 4},
        ),
    ] = Field(default_factory=dict)
    task: Annotated[
        Literal["auto"] | TaskName,
        Option(
            "What the outputs of the model mean: {tasks}. auto reads it from the outputs and labels.",
            MODEL,
            names="tasks",
        ),
    ] = "auto"
    outputs: Annotated[
        tuple[str, ...],
        Option(
            "Output of the model that counts, as NAME or NAME=TASK, e.g. last_hidden_state=features. Repeat the option "
            "for several, which are scored together. Default: the one that shows a task.",
            MODEL,
            example=["last_hidden_state=features"],
        ),
    ] = ()
    device: Annotated[
        str,
        AfterValidator(known_device),
        Option("Torch device that measures and rounds, e.g. cpu or cuda:0.", MODEL, level="basic"),
    ] = "cpu"


class ImageOptions(Record):
    """Images, and the preprocessing before the model.

    Attributes:
        calibration: a source of images, or how to make them from the model alone.
        calibration_size: None: as many as the effort can use.
    """

    calibration: Annotated[
        Path | MadeImages | None,
        BeforeValidator(calibration_of),
        PlainSerializer(calibration_text, return_type=str | None),
        Option(
            "Images to measure with; labels are not needed. A folder of images or of class folders, a folder with "
            "labels.csv, or an .npz file. synthetic or noise: made from the model, if there are no images.",
            IMAGES,
            level="basic",
            example="calibration",
        ),
    ] = None
    validation: Annotated[
        Path | None,
        Option(
            "Labelled images to check accuracy with: class folders, a folder with labels.csv, or an .npz file; for "
            "detection a COCO .json file.",
            IMAGES,
            level="basic",
            shapes_file=False,
            example="validation",
        ),
    ] = None
    calibration_size: Annotated[
        int | None,
        Field(ge=1, le=MOST_IMAGES),
        Option(
            "Number of calibration images. Default: 128; 1024 with --effort best or max; 64 synthetic ones.",
            IMAGES,
            example=128,
        ),
    ] = None
    seed: Annotated[int, Field(ge=0, lt=2**63), Option("Seed for choosing images and sampling labels.", IMAGES)] = 0
    input_size: Annotated[
        tuple[int, int] | None,
        BeforeValidator(sides_of),
        AfterValidator(possible_sides),
        Option(
            "Height x width of the model's input in pixels, e.g. 384x512, for models that take images of any size. "
            "Default: the model's own.",
            IMAGES,
            example=[384, 512],
        ),
    ] = None
    mean: Annotated[
        Numbers,
        Option(
            "Mean of each channel in preprocessing, of pixels from 0 to 1, e.g. 0.5,0.5,0.5. Default: the model's own.",
            IMAGES,
            example=[0.5, 0.5, 0.5],
        ),
    ] = None
    std: Annotated[
        Numbers,
        AfterValidator(all_positive),
        Option(
            "Standard deviation of each channel in preprocessing, e.g. 0.5,0.5,0.5. Default: the model's own.",
            IMAGES,
            example=[0.5, 0.5, 0.5],
        ),
    ] = None
    crop: Annotated[
        float | None,
        Field(gt=0, le=1),
        Option(
            "Fraction of the resized image that the center crop keeps, e.g. 0.9. Default: the model's own.",
            IMAGES,
            example=0.9,
        ),
    ] = None


class SyntheticOptions(Record):
    """How calibration images are made from the model alone."""

    size: Annotated[int, Field(ge=1)] = 64
    steps: Annotated[int, Field(ge=1)] = 40
    lr: Annotated[float, Field(gt=0)] = 0.2
    entropy_weight: Annotated[float, Field(ge=0)] = 4.0
    class_weight: Annotated[float, Field(ge=0)] = 1.0
    variation_weight: Annotated[float, Field(ge=0)] = 30.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
