"""A run up to its first measurement: the same steps for runs and for rehearsals (`--dry-run`)."""

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
    """Everything that a run measures on.

    Attributes:
        frontend: the exported model with its layers.
        crops: calibration images; None only in a rehearsal.
        validation: labelled images; None only in a rehearsal.
    """

    frontend: Frontend
    crops: Crops | None
    validation: ImageSource | BatchedImages | None

    def measured(self) -> tuple[Frontend, Crops, ImageSource | BatchedImages]:
        """Return all three, for a run that continues.

        Raises:
            LampqError: the run was opened as a rehearsal, without images.
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
        recipe: what to load.
        clock: keeps the seconds of each stage.
        given: Python objects that replace the model or the images.
        rehearsal: nothing will be measured: images that the recipe does not name are left out, and images that would be
            made from the model are not made.

    Raises:
        UsageError: labels are requested for images made from the model, which have none.
        LampqError: the model or its images cannot be used.
    """
    images, effort = recipe.images, recipe.analysis.effort
    if isinstance(images.calibration, str) and recipe.analysis.labels == "given":
        raise UsageError(
            f"the labels of the images are requested, but {images.calibration} images have none",
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
        inputs: the loaded model and its images.
        recipe: the requested measurements.
        clock: keeps the seconds of each stage.
        rehearsal: see `opened_inputs`.

    Raises:
        LampqError: the model cannot be exported, or a requested measurement is not possible on it.
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
    """Run `opened_inputs` and `exported`, one after the other.

    Raises:
        UsageError: see `opened_inputs`.
        LampqError: see `opened_inputs` and `exported`.
    """
    with (
        opened_inputs(recipe, clock, given, rehearsal=rehearsal) as inputs,
        exported(inputs, recipe, clock, rehearsal=rehearsal) as opened,
    ):
        yield opened
