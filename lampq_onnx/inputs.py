"""What a run works on: the loaded model, its calibration images, its validation images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lampq_onnx.data import BatchedImages, CroppedImages, ImageSource, Preprocessing
from lampq_onnx.errors import LampqError
from lampq_onnx.group import ALONE, Group
from lampq_onnx.options import EffortName, ImageOptions, ModelOptions
from lampq_onnx.progress import Clock

if TYPE_CHECKING:
    from lampq_onnx.frontend.session import Frontend


@dataclass(frozen=True)
class Given:
    """Python objects in the place of what a recipe would name.

    Attributes:
        module: a torch.nn.Module that gives logits (n, classes) for images (n, c, h, w).
        preprocessing: of its images; None: what timm's configuration of the module says.
        calibration, validation: iterables of batches, see `BatchedImages`; those of ``validation`` need labels.
    """

    module: Any = None
    preprocessing: Preprocessing | None = None
    calibration: Iterable[Any] | None = None
    validation: Iterable[Any] | None = None


@contextmanager
def prepared(
    model: ModelOptions,
    images: ImageOptions,
    effort: EffortName,
    clock: Clock,
    given: Given | None = None,
    group: Group = ALONE,
) -> Iterator[tuple[Frontend, CroppedImages | BatchedImages]]:
    """The loaded model, and its calibration images cropped once into a temporary file."""
    from lampq_onnx.frontend.effort import EFFORTS
    from lampq_onnx.frontend.loading import load_module
    from lampq_onnx.frontend.opening import calibration_images, load_model, on_device
    from lampq_onnx.frontend.session import Frontend

    given = Given() if given is None else given
    with clock.stage("load"):
        if given.module is not None:
            loaded = on_device(load_module(given.module, model.name, given.preprocessing), model, images)
        else:
            loaded = load_model(model, images)

    def exported() -> Frontend:
        with clock.stage("export"):
            return Frontend(loaded, group)

    with ExitStack() as stack:
        if given.calibration is not None:
            most = images.calibration_size or EFFORTS[effort].images
            with clock.stage("calibration images"):
                crops: CroppedImages | BatchedImages = stack.enter_context(
                    BatchedImages(given.calibration, loaded.preprocessing, most=most, name="calibration images")
                )
            frontend = exported()
        else:
            if isinstance(images.calibration, str):
                frontend = exported()
                chosen, preprocessing = calibration_images(loaded, frontend.exported.units, images, effort, clock)
            else:
                # Images first: a wrong folder is found before the export.
                chosen, preprocessing = calibration_images(loaded, (), images, effort, clock)
                frontend = exported()
            with clock.stage("calibration images", len(chosen)) as advance:
                crops = stack.enter_context(CroppedImages(chosen, preprocessing, progress=advance))
        yield frontend, crops


@contextmanager
def validation_images(
    images: ImageOptions, frontend: Frontend, given: Given | None
) -> Iterator[ImageSource | BatchedImages]:
    """Labelled images, opened (and their labels checked) before any long stage."""
    if given is None or given.validation is None:
        yield _validation_source(images, frontend)
        return
    with BatchedImages(given.validation, frontend.loaded.preprocessing, name="validation images") as opened:
        if opened.labels is None and frontend.loaded.task.kind == "classification":
            raise LampqError("the validation images have no labels", hint="give pairs of images and labels")
        yield opened


def _validation_source(images: ImageOptions, frontend: Frontend) -> ImageSource:
    from lampq_onnx.frontend.loading import DIGITS
    from lampq_onnx.frontend.opening import digits_source
    from lampq_onnx.tasks.meters import open_validation

    identity = frontend.loaded.identity
    if images.validation is not None:
        return open_validation(images.validation, frontend.loaded.task, identity.num_classes)
    if identity.name == DIGITS:
        return digits_source("test")
    raise LampqError("no validation images", hint="give labelled images with --validation")
