"""A run up to its first measurement: the one way that runs and their rehearsals (`--dry-run`) take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lampq_onnx.config.options import DIGITS
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.data import BatchedImages, ImageSource
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.running.progress import Clock
from lampq_onnx.workflow.inputs import (
    Crops,
    Given,
    calibration_crops,
    loaded_model,
    prepared,
    uses_labels,
    validation_images,
)

if TYPE_CHECKING:
    from lampq_onnx.frontend.session import Frontend
    from lampq_onnx.frontend.shared.loaded import LoadedModel


@dataclass(frozen=True)
class Opened:
    """What a run measures on.

    Attributes:
        frontend: the exported model with its layers.
        crops: calibration images; None only in a rehearsal.
        validation: labelled images; None only in a rehearsal.
    """

    frontend: Frontend
    crops: Crops | None
    validation: ImageSource | BatchedImages | None

    def measured(self) -> tuple[Frontend, Crops, ImageSource | BatchedImages]:
        """All of it, for a run that goes on.

        Raises:
            LampqError: it was opened for a rehearsal, without images.
        """
        if self.crops is None or self.validation is None:
            raise LampqError("the run was opened without its images", hint="open it with rehearsal=False")
        return self.frontend, self.crops, self.validation


@dataclass(frozen=True)
class OpenedInputs:
    """A loaded model and its images, before the export.

    Attributes:
        loaded: the model.
        read: calibration images; None in a rehearsal without them.
        validation: labelled images; None in a rehearsal without them.
    """

    loaded: LoadedModel
    read: Crops | None
    validation: ImageSource | BatchedImages | None


@contextmanager
def opened_inputs(
    recipe: Recipe, clock: Clock, given: Given | None = None, *, rehearsal: bool = False
) -> Iterator[OpenedInputs]:
    """Load the model and open its images.

    Args:
        given: Python objects that stand for the model or the images.
        rehearsal: nothing will be measured: images that the recipe does not name are left out, and images that would
            be made from the model are not made.

    Raises:
        UsageError: labels are asked for that made images do not have.
        LampqError: the model or its images cannot be used.
    """
    images, effort = recipe.images, recipe.analysis.effort
    if isinstance(images.calibration, str) and recipe.analysis.labels == "given":
        raise UsageError(
            f"given labels are asked for, and {images.calibration} images have none",
            hint="use labels sampled from the model, which is the default, or give labelled images",
        )
    with ExitStack() as stack:
        loaded = stack.enter_context(loaded_model(recipe.model, images, clock, given))
        named = loaded.identity.name == DIGITS
        calibrates = images.calibration is not None or (given is not None and given.calibration is not None)
        validates = images.validation is not None or (given is not None and given.validation is not None)
        read = None
        if not rehearsal or calibrates or named:
            labelled = uses_labels(recipe.analysis, recipe.update)
            read = stack.enter_context(calibration_crops(loaded, images, effort, clock, given, labelled=labelled))
        validation = None
        if not rehearsal or validates or named:
            validation = stack.enter_context(validation_images(images, loaded, given))
        yield OpenedInputs(loaded, read, validation)


@contextmanager
def exported(inputs: OpenedInputs, recipe: Recipe, clock: Clock, *, rehearsal: bool = False) -> Iterator[Opened]:
    """Export the model, find its layers, and check that they can be measured.

    Args:
        rehearsal: see `opened_inputs`.

    Raises:
        LampqError: the model cannot be exported, or what is asked for cannot be measured on it.
    """
    with ExitStack() as stack:
        if rehearsal and inputs.read is None:
            from lampq_onnx.frontend.session import Frontend

            with clock.stage("export"):
                frontend = Frontend(inputs.loaded)
            crops: Crops | None = None
        else:
            ready = prepared(inputs.loaded, inputs.read, recipe.images, recipe.analysis.effort, clock)
            frontend, crops = stack.enter_context(ready)
        frontend.require_measurable(recipe.analysis, crops)
        yield Opened(frontend, crops, inputs.validation)


@contextmanager
def opened_run(
    recipe: Recipe, clock: Clock, given: Given | None = None, *, rehearsal: bool = False
) -> Iterator[Opened]:
    """`opened_inputs` and `exported`, one after the other.

    Raises:
        UsageError, LampqError: see both.
    """
    with (
        opened_inputs(recipe, clock, given, rehearsal=rehearsal) as inputs,
        exported(inputs, recipe, clock, rehearsal=rehearsal) as opened,
    ):
        yield opened
