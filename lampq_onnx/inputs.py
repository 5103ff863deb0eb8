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
    from lampq_onnx.frontend.loading import LoadedModel
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
def loaded_model(
    model: ModelOptions, images: ImageOptions, clock: Clock, given: Given | None = None
) -> Iterator[LoadedModel]:
    """The model, on its device; a context so that it is loaded in its place among the others of a run."""
    from lampq_onnx.frontend.loading import load_module
    from lampq_onnx.frontend.opening import load_model, on_device

    with clock.stage("load"):
        if given is not None and given.module is not None:
            loaded = on_device(load_module(given.module, model.name, given.preprocessing), model, images)
        else:
            loaded = load_model(model, images)
    yield loaded


@contextmanager
def prepared(
    loaded: LoadedModel,
    images: ImageOptions,
    effort: EffortName,
    clock: Clock,
    given: Given | None = None,
    group: Group = ALONE,
) -> Iterator[tuple[Frontend, CroppedImages | BatchedImages]]:
    """The model's front end, and its calibration images cropped once into a temporary file."""
    from lampq_onnx.frontend.effort import EFFORTS
    from lampq_onnx.frontend.opening import calibration_images
    from lampq_onnx.frontend.session import Frontend

    def exported() -> Frontend:
        with clock.stage("export"):
            return Frontend(loaded, group)

    def cropped(chosen: ImageSource, preprocessing: Preprocessing) -> CroppedImages:
        with clock.stage("calibration images", len(chosen)) as advance:
            return stack.enter_context(CroppedImages(chosen, preprocessing, progress=advance))

    # Images first: a wrong folder or a damaged file is found before the export. Only made ones need it.
    with ExitStack() as stack:
        if given is not None and given.calibration is not None:
            most = images.calibration_size or EFFORTS[effort].images
            with clock.stage("calibration images"):
                crops: CroppedImages | BatchedImages = stack.enter_context(
                    BatchedImages(given.calibration, loaded.preprocessing, most=most, name="calibration images")
                )
            frontend = exported()
        elif isinstance(images.calibration, str):
            frontend = exported()
            crops = cropped(*calibration_images(loaded, frontend.exported.units, images, effort, clock))
        else:
            crops = cropped(*calibration_images(loaded, (), images, effort, clock))
            frontend = exported()
        yield frontend, crops


@contextmanager
def validation_images(
    images: ImageOptions, loaded: LoadedModel, given: Given | None
) -> Iterator[ImageSource | BatchedImages]:
    """Labelled images, opened (and their labels checked) before any long stage."""
    if given is None or given.validation is None:
        yield _validation_source(images, loaded)
        return
    with BatchedImages(given.validation, loaded.preprocessing, name="validation images") as opened:
        if opened.labels is None and loaded.task.kind == "classification":
            raise LampqError("the validation images have no labels", hint="give pairs of images and labels")
        yield opened


def _validation_source(images: ImageOptions, loaded: LoadedModel) -> ImageSource:
    from lampq_onnx.frontend.loading import DIGITS
    from lampq_onnx.frontend.opening import digits_source
    from lampq_onnx.tasks.meters import open_validation

    identity = loaded.identity
    if images.validation is not None:
        return open_validation(images.validation, loaded.task, identity.num_classes)
    if identity.name == DIGITS:
        return digits_source("test")
    raise LampqError("no validation images", hint="give labelled images with --validation")
