"""Opens the inputs of a run: the model by its name, and the images to calibrate on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from lampq_onnx.config.inputs import DIGITS, ImageOptions, ModelOptions, SyntheticOptions
from lampq_onnx.config.options import EffortName
from lampq_onnx.data import ImageSource, Preprocessing, choose, open_source
from lampq_onnx.data.source import Targets
from lampq_onnx.data.sources import require_exists
from lampq_onnx.data.targets import label_numbers
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.evaluation.tasks.meters import calibration_labels
from lampq_onnx.frontend.models.digits import are_digits, digits_source
from lampq_onnx.frontend.models.loading import load_digits, load_timm
from lampq_onnx.frontend.models.output_choice import asked_outputs, require_known
from lampq_onnx.frontend.models.task_model import Labels, with_task
from lampq_onnx.frontend.models.transformers import is_transformers_name, load_transformers
from lampq_onnx.frontend.onnx_model.from_file import load_onnx
from lampq_onnx.frontend.rounding.effort import EFFORTS
from lampq_onnx.frontend.shared.distributed import own_device
from lampq_onnx.frontend.shared.loaded import LoadedModel
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.synthetic import calibration_source
from lampq_onnx.importer.preprocessing import is_onnx_file
from lampq_onnx.running.progress import ProgressSink


def load_model(options: ModelOptions, images: ImageOptions, labels: Labels | None = None) -> LoadedModel:
    """Load a model by name on the requested device, with overrides of its preprocessing.

    Args:
        options: which model.
        images: overrides of the preprocessing, and the images whose labels show the task.
        labels: see `with_task`; None uses the labels of ``images``.

    Raises:
        UsageError: options contradict each other, or the device is unknown; see also `load_timm`.
        LampqError: the model cannot be loaded; see `load_timm`.
    """
    if options.checkpoint_key is not None and options.checkpoint is None:
        raise UsageError(
            "--checkpoint-key names a part of a checkpoint", hint="give the file as well: --checkpoint FILE"
        )
    if options.name == DIGITS:
        if options.checkpoint or options.pretrained or options.model_args:
            raise UsageError(f"{DIGITS} is the embedded model: it takes no checkpoint, weights or model arguments")
        loaded = load_digits()
    elif is_onnx_file(options.name):
        if options.checkpoint or options.pretrained or options.model_args:
            raise UsageError(f"{options.name} holds its weights: it takes no checkpoint, weights or model arguments")
        loaded = load_onnx(Path(options.name), images, outputs=asked_outputs(options.outputs))
    elif is_transformers_name(options.name):
        if options.checkpoint or options.model_args:
            raise UsageError(f"{options.name} is a model of transformers: it takes no checkpoint or model arguments")
        loaded = load_transformers(
            options.name, pretrained=options.pretrained, images=images, outputs=asked_outputs(options.outputs)
        )
    else:
        loaded = load_timm(
            options.name,
            checkpoint=options.checkpoint,
            checkpoint_key=options.checkpoint_key,
            pretrained=options.pretrained,
            model_args=options.model_args,
            size=images.input_size,
        )
        require_statistics(loaded, images)
    return on_device(loaded, options, images, labels)


def require_statistics(loaded: LoadedModel, images: ImageOptions) -> None:
    """Check that the mean and std of a timm model have as many channels as the model.

    Models with one channel get the mean over the three, as timm's own grayscale weights do.

    Raises:
        UsageError: timm knows the statistics of other channels, and --mean or --std is missing.
    """
    channels = loaded.preprocessing.channels
    known = len(dict(getattr(loaded.module, "pretrained_cfg", {})).get("mean", ()))
    if channels not in (1, known) and (images.mean is None or images.std is None):
        raise UsageError(
            f"{loaded.identity.name} takes {channels} channels, and timm knows the mean and std of {known}",
            hint=f"give --mean and --std with {channels} numbers each",
        )


def on_device(
    loaded: LoadedModel, options: ModelOptions, images: ImageOptions, labels: Labels | None = None
) -> LoadedModel:
    """The model on its device, with its task and overrides of its preprocessing; see `load_model`.

    Raises:
        UsageError: the outputs do not fit the requested task, the device does not exist, or an override is not valid.
    """
    asked = asked_outputs(options.outputs)
    require_known(asked, loaded.task.outputs, loaded.identity.name)
    loaded = with_task(loaded, options.task, labels or (lambda: known_labels(images)), asked)
    try:
        device = torch.device(own_device(options.device))
        if device.type == "cuda" and not torch.cuda.is_available():
            raise UsageError(f"device {options.device}: torch sees no CUDA device here", hint="use --device cpu")
        loaded.module.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {options.device!r} cannot be used: {error}") from error
    preprocessing = loaded.preprocessing.override(mean=images.mean, std=images.std, crop_pct=images.crop)
    return replace(loaded, preprocessing=preprocessing)


def known_labels(images: ImageOptions) -> Targets | None:
    """Labels of the validation images as numbers, or those of the calibration images if the former have none.

    Raises:
        LampqError: the images cannot be opened.
    """
    for path in (images.validation, images.calibration):
        if not isinstance(path, Path) or are_digits(path):
            continue
        require_exists(path)
        found = label_numbers(path)
        if found is not None:
            return found
    return None


def calibration_images(
    loaded: LoadedModel,
    layers: Sequence[ModelLayer],
    images: ImageOptions,
    effort: EffortName,
    progress: ProgressSink,
    *,
    labelled: bool = False,
) -> tuple[ImageSource, Preprocessing]:
    """Open or make the calibration images: given ones, those of the embedded model, or images made from the model.

    Args:
        loaded: the model.
        layers: its layers, which the making of images reads.
        images: what to open.
        effort: gives the number of images if the options do not.
        progress: told of the images that are made.
        labelled: whether labels are used; otherwise label files are not read.

    Returns:
        The images and their preprocessing.

    Raises:
        LampqError: there are no images, or they cannot be opened.
    """
    size = images.calibration_size or EFFORTS[effort].images
    given = images.calibration
    if isinstance(given, str):
        options = SyntheticOptions(seed=images.seed)
        if images.calibration_size is not None:
            options = options.model_copy(update={"size": images.calibration_size})
        return calibration_source(given, loaded, layers, options, progress)
    if are_digits(given) or (given is None and loaded.identity.name == DIGITS):
        source = digits_source("calibration")
    elif given is not None:
        classify = loaded.task.kind == "classification"
        source = open_source(
            given,
            num_classes=loaded.identity.num_classes if classify else None,
            need_labels=labelled and classify,
            class_names=loaded.task.classes,
            labels=calibration_labels(loaded.task),
        )
    else:
        raise LampqError(
            "no calibration images",
            hint="give a folder or .npz file with --calibration; 128 images are enough. Without any, "
            "--calibration synthetic makes them from the model",
        )
    return choose(source, size, images.seed), loaded.preprocessing
