"""What a run works on: the loaded model, its calibration images, its validation images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lampq_onnx.config.options import DIGITS, AnalysisOptions, EffortName, ImageOptions, ModelOptions, UpdateOptions
from lampq_onnx.data import BatchedImages, CroppedImages, ImageSource, Preprocessing
from lampq_onnx.data.batched import peeked_labels
from lampq_onnx.errors import LampqError
from lampq_onnx.running.processes import ALONE, Group
from lampq_onnx.running.progress import Clock

if TYPE_CHECKING:
    from lampq_onnx.frontend.session import Frontend
    from lampq_onnx.frontend.shared.loaded import LoadedModel


Crops = CroppedImages | BatchedImages
"""Calibration images as the front end reads them."""


@dataclass(frozen=True)
class Given:
    """Python objects in the place of what a recipe would name.

    Attributes:
        module: a torch.nn.Module that gives logits (n, classes) for images (n, c, h, w).
        preprocessing: of its images; None: what timm's configuration of the module says.
        calibration, validation: iterables of batches, see `BatchedImages`; those of ``validation`` need labels.
    """

    module: Callable[..., object] | None = None
    preprocessing: Preprocessing | None = None
    calibration: Iterable[object] | None = None
    validation: Iterable[object] | None = None


@contextmanager
def loaded_model(
    model: ModelOptions, images: ImageOptions, clock: Clock, given: Given | None = None
) -> Iterator[LoadedModel]:
    """The model, on its device; a context so that it is loaded in its place among the others of a run."""
    from lampq_onnx.frontend.models.loading import load_module
    from lampq_onnx.frontend.opening import load_model, on_device, require_statistics

    labels = None
    if given is not None and given.validation is not None:
        batches = given.validation
        labels = lambda: peeked_labels(batches)  # noqa: E731 -- read only where they decide
    with clock.stage("load"):
        if given is not None and given.module is not None:
            loaded = load_module(given.module, model.name, given.preprocessing)
            if given.preprocessing is None:
                require_statistics(loaded, images)
            loaded = on_device(loaded, model, images, labels)
        else:
            loaded = load_model(model, images, labels)
    yield loaded


def uses_labels(analysis: AnalysisOptions, update: UpdateOptions | None = None) -> bool:
    """Whether a run looks at the labels of its calibration images."""
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
    """Calibration images that are there already, cropped once into a temporary file; None: they are yet to be made.

    They are read before the model is exported: a wrong folder or a damaged file is found early.

    Args:
        labelled: whether the run uses their labels, see `uses_labels`; labels of files are not read otherwise.
    """
    from lampq_onnx.frontend.opening import calibration_images
    from lampq_onnx.frontend.rounding.effort import EFFORTS

    if given is not None and given.calibration is not None:
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
    group: Group = ALONE,
) -> Iterator[tuple[Frontend, Crops]]:
    """The model's front end, and the calibration images; without ``crops``, they are made from the model."""
    from lampq_onnx.frontend.opening import calibration_images
    from lampq_onnx.frontend.session import Frontend

    with clock.stage("export"):
        frontend = Frontend(loaded, group)
    with ExitStack() as stack:
        if crops is None:
            made = calibration_images(loaded, frontend.exported.units, images, effort, clock)
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
    """Labelled images, opened before any long stage; their labels and what can be measured on them are checked.

    Raises:
        LampqError: there are no images or no labels, or a score cannot change on them.
    """
    if given is None or given.validation is None:
        source = _validation_source(images, loaded)
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
    from lampq_onnx.frontend.models.task_model import answers_of

    require_moving_scores(
        loaded.task, source, loaded.preprocessing, answers_of(loaded.module), named=loaded.identity.name
    )


def _validation_source(images: ImageOptions, loaded: LoadedModel) -> ImageSource:
    from lampq_onnx.evaluation.tasks.meters import open_validation
    from lampq_onnx.frontend.opening import digits_source

    identity = loaded.identity
    if images.validation is not None:
        return open_validation(images.validation, loaded.task, identity.num_classes)
    if identity.name == DIGITS:
        return digits_source("test")
    raise LampqError("no validation images", hint="give labelled images with --validation")
