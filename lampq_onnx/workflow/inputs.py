"""The inputs of a run: the loaded model, its calibration images, its validation images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lampq_onnx.config.inputs import DIGITS, ImageOptions, ModelOptions
from lampq_onnx.config.options import AnalysisOptions, EffortName, UpdateOptions
from lampq_onnx.data import BatchedImages, CroppedImages, ImageSource, Preprocessing, choose
from lampq_onnx.data.batched import peeked_labels
from lampq_onnx.data.python_datasets import is_dataset, open_dataset
from lampq_onnx.data.source import Targets
from lampq_onnx.errors import LampqError
from lampq_onnx.running.processes import ALONE, Group
from lampq_onnx.running.progress import Clock
from lampq_onnx.targets import Target

if TYPE_CHECKING:
    from lampq_onnx.frontend.session import Frontend
    from lampq_onnx.frontend.shared.loaded import LoadedModel


Crops = CroppedImages | BatchedImages
"""Calibration images in the form that the front end reads."""


@dataclass(frozen=True)
class Given:
    """Python objects that replace what a recipe would name.

    Attributes:
        module: a torch.nn.Module that gives logits (n, classes) for images (n, c, h, w).
        preprocessing: preprocessing of its images; None: taken from timm's configuration of the module.
        calibration: iterable of batches, see `BatchedImages`; or a data set of raw images, see `is_dataset`.
        validation: the same with labels.
    """

    module: Callable[..., object] | None = None
    preprocessing: Preprocessing | None = None
    calibration: Iterable[object] | None = None
    validation: Iterable[object] | None = None


@contextmanager
def loaded_model(
    model: ModelOptions, images: ImageOptions, clock: Clock, given: Given | None = None
) -> Iterator[LoadedModel]:
    """Load the model onto its device; a context, so that it is freed in order with the other inputs of a run."""
    from lampq_onnx.frontend.shared.compiler import load_compiler

    load_compiler()  # before timm and the export, which would load more of it

    from lampq_onnx.frontend.models.loading import load_module
    from lampq_onnx.frontend.models.output_choice import asked_outputs
    from lampq_onnx.frontend.opening import load_model, on_device, require_statistics

    labels = None
    if given is not None and given.validation is not None:
        batches = given.validation
        labels = lambda: given_labels(batches)  # noqa: E731 -- read only if they decide the task
    with clock.stage("load"):
        if given is not None and given.module is not None:
            asked = asked_outputs(model.outputs)
            loaded = load_module(given.module, model.name, given.preprocessing, outputs=asked)
            if given.preprocessing is None:
                require_statistics(loaded, images)
            loaded = on_device(loaded, model, images, labels)
        else:
            loaded = load_model(model, images, labels)
    clock.model_size(sum(parameter.numel() for parameter in loaded.module.parameters()))
    yield loaded


def given_labels(images: Iterable[object]) -> Targets | None:
    """Labels of images given by Python code, as real numbers; None if they have none, or others."""
    return open_dataset(images).numbers() if is_dataset(images) else peeked_labels(images)


def uses_labels(analysis: AnalysisOptions, update: UpdateOptions | None = None) -> bool:
    """Whether a run uses the labels of its calibration images."""
    measures = {analysis.alpha_measure, "kl" if update is None else update.measure}
    return analysis.labels == "given" or bool(measures & {"nll", "top1"})


@contextmanager
def calibration_crops(
    loaded: LoadedModel,
    images: ImageOptions,
    effort: EffortName,
    clock: Clock,
    given: Given | None = None,
    *,
    labelled: bool,
) -> Iterator[Crops | None]:
    """Crop existing calibration images once into a temporary file; None: they are yet to be made from the model.

    They are read before the model is exported, so that a wrong folder or a damaged file is found early.

    Args:
        loaded: the model.
        images: where the images are.
        effort: decides the default number of images.
        clock: keeps the seconds of each stage.
        given: Python objects that replace the images.
        labelled: whether the run uses their labels, see `uses_labels`; labels of files are not read otherwise.
    """
    from lampq_onnx.frontend.opening import calibration_images
    from lampq_onnx.frontend.rounding.effort import EFFORTS

    if given is not None and is_dataset(given.calibration):
        classify = loaded.task.kind == "classification"
        source = open_dataset(given.calibration).with_classes(
            loaded.identity.num_classes if classify else None,
            need_labels=labelled and classify,
            class_names=loaded.task.classes,
        )
        count = images.calibration_size or EFFORTS[effort].images
        with _cropped(choose(source, count, images.seed), loaded.preprocessing, clock) as crops:
            yield crops
    elif given is not None and given.calibration is not None:
        most = images.calibration_size or EFFORTS[effort].images
        with ExitStack() as stack:
            with clock.stage("calibration images"):
                batches = BatchedImages(given.calibration, loaded.preprocessing, most=most, name="calibration images")
                opened = stack.enter_context(batches)
            yield opened
    elif isinstance(images.calibration, str):
        yield None
    else:
        with _cropped(*calibration_images(loaded, (), images, effort, clock, labelled=labelled), clock) as crops:
            yield crops


@contextmanager
def prepared(
    loaded: LoadedModel,
    crops: Crops | None,
    images: ImageOptions,
    effort: EffortName,
    clock: Clock,
    target: Target,
    group: Group = ALONE,
) -> Iterator[tuple[Frontend, Crops]]:
    """Open the model's front end with its calibration images; without ``crops``, they are made from the model."""
    from lampq_onnx.frontend.opening import calibration_images
    from lampq_onnx.frontend.session import Frontend

    with clock.stage("export"):
        frontend = Frontend(loaded, group, grids=target.grids, block=target.block, products=target.output_ranges)
    with ExitStack() as stack:
        if crops is None:
            made = calibration_images(loaded, frontend.exported.layers, images, effort, clock)
            crops = stack.enter_context(_cropped(*made, clock))
        frontend.measure_spread(crops)
        yield frontend, crops


@contextmanager
def _cropped(chosen: ImageSource, preprocessing: Preprocessing, clock: Clock) -> Iterator[CroppedImages]:
    with ExitStack() as stack:
        with clock.stage("calibration images", len(chosen)) as advance:
            crops = stack.enter_context(CroppedImages(chosen, preprocessing, progress=advance))
        yield crops


@contextmanager
def validation_images(
    images: ImageOptions, loaded: LoadedModel, given: Given | None
) -> Iterator[ImageSource | BatchedImages]:
    """Open labelled images before any long stage, and check their labels and what can be measured on them.

    Raises:
        LampqError: there are no images or no labels, or a score cannot change on them.
    """
    if given is None or given.validation is None:
        source = _validation_source(images, loaded)
        _require_scores(loaded, source)
        yield source
        return
    if is_dataset(given.validation):
        from lampq_onnx.evaluation.tasks.meters import open_validation

        listed = open_dataset(given.validation)
        source = open_validation(listed, loaded.task, loaded.identity.num_classes)
        _require_scores(loaded, source)
        yield source
        return
    with BatchedImages(given.validation, loaded.preprocessing, name="validation images") as opened:
        if opened.labels is None and loaded.task.kind == "classification":
            raise LampqError("the validation images have no labels", hint="give pairs of images and labels")
        _require_scores(loaded, opened)
        yield opened


def _require_scores(loaded: LoadedModel, source: ImageSource | BatchedImages) -> None:
    from lampq_onnx.evaluation.tasks.guard import require_moving_scores
    from lampq_onnx.frontend.shared.batching import answers_of

    require_moving_scores(
        loaded.task, source, loaded.preprocessing, answers_of(loaded.module), named=loaded.identity.name
    )


def _validation_source(images: ImageOptions, loaded: LoadedModel) -> ImageSource:
    from lampq_onnx.evaluation.tasks.meters import open_validation
    from lampq_onnx.frontend.models.digits import are_digits, digits_source

    identity = loaded.identity
    if are_digits(images.validation) or (images.validation is None and identity.name == DIGITS):
        return digits_source("test")
    if images.validation is not None:
        return open_validation(images.validation, loaded.task, identity.num_classes)
    raise LampqError("no validation images", hint="give labelled images with --validation")
