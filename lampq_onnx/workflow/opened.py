"""A run up to its first measurement: the one way that every command which measures takes, and its rehearsals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lampq_onnx.config.inputs import DIGITS
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.data import BatchedImages, ImageSource
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.running.memory import keep_freed
from lampq_onnx.running.processes import ALONE, Group
from lampq_onnx.running.progress import Clock
from lampq_onnx.runtime.environment import target_here
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


Opening = Literal["all", "calibration", "named"]
"""Which images a run opens: calibration and validation images, those for calibration only, or, for a rehearsal that
measures nothing, those that the recipe names; what would be made from the model is not made then."""


@dataclass(frozen=True)
class Opened:
    """Everything that a run measures on.

    Attributes:
        frontend: the exported model with its layers.
        crops: calibration images; None only if they were not asked for.
        validation: labelled images; None only if they were not asked for.
    """

    frontend: Frontend
    crops: Crops | None
    validation: ImageSource | BatchedImages | None

    def calibrated(self) -> tuple[Frontend, Crops]:
        """Model and calibration images, for a run that measures sensitivities.

        Raises:
            LampqError: it was opened without them.
        """
        if self.crops is None:
            raise LampqError("the run was opened without its calibration images", hint="open it with those")
        return self.frontend, self.crops

    def measured(self) -> tuple[Frontend, Crops, ImageSource | BatchedImages]:
        """Return all three, for a run that continues.

        Raises:
            LampqError: it was opened without them.
        """
        if self.validation is None:
            raise LampqError("the run was opened without its validation images", hint="open it with those")
        return *self.calibrated(), self.validation


@dataclass(frozen=True)
class OpenedInputs:
    """A loaded model and its images, before the export.

    Attributes:
        loaded: the model.
        read: calibration images; None if they are yet to be made, or were not asked for.
        validation: labelled images; None if they were not asked for.
    """

    loaded: LoadedModel
    read: Crops | None
    validation: ImageSource | BatchedImages | None


@contextmanager
def opened_inputs(
    recipe: Recipe, clock: Clock, given: Given | None = None, *, images: Opening = "all"
) -> Iterator[OpenedInputs]:
    """Load the model and open its images.

    Args:
        recipe: what to load.
        clock: keeps the seconds of each stage.
        given: Python objects that replace the model or the images.
        images: which are opened.

    Raises:
        UsageError: labels are requested for images made from the model, which have none.
        LampqError: the model or its images cannot be used.
    """
    keep_freed()
    asked, effort = recipe.images, recipe.analysis.effort
    if isinstance(asked.calibration, str) and recipe.analysis.labels == "given":
        raise UsageError(
            f"the labels of the images are requested, but {asked.calibration} images have none",
            hint="use labels sampled from the model, which is the default, or give labelled images",
        )
    with ExitStack() as stack:
        loaded = stack.enter_context(loaded_model(recipe.model, asked, clock, given))
        named = loaded.identity.name == DIGITS
        calibrates = asked.calibration is not None or (given is not None and given.calibration is not None)
        validates = asked.validation is not None or (given is not None and given.validation is not None)
        read = None
        if images != "named" or calibrates or named:
            labelled = uses_labels(recipe.analysis, recipe.update)
            read = stack.enter_context(calibration_crops(loaded, asked, effort, clock, given, labelled=labelled))
        validation = None
        if images == "all" or (images == "named" and (validates or named)):
            validation = stack.enter_context(validation_images(asked, loaded, given))
        yield OpenedInputs(loaded, read, validation)


@contextmanager
def exported(
    inputs: OpenedInputs, recipe: Recipe, clock: Clock, *, images: Opening = "all", group: Group = ALONE
) -> Iterator[Opened]:
    """Export the model, find its layers, and check that they can be measured.

    Args:
        inputs: the loaded model and its images.
        recipe: the requested measurements.
        clock: keeps the seconds of each stage.
        images: see `opened_inputs`.
        group: processes that share the images.

    Raises:
        LampqError: the model cannot be exported, or a requested measurement is not possible on it.
    """
    target = target_here(recipe.output.target)
    with ExitStack() as stack:
        if images == "named" and inputs.read is None:
            from lampq_onnx.frontend.session import Frontend

            with clock.stage("export"):
                frontend = Frontend(
                    inputs.loaded, grids=target.grids, block=target.block, products=target.output_ranges
                )
            crops: Crops | None = None
        else:
            ready = prepared(inputs.loaded, inputs.read, recipe.images, recipe.analysis.effort, clock, target, group)
            frontend, crops = stack.enter_context(ready)
        frontend.require_measurable(recipe.analysis, crops)
        yield Opened(frontend, crops, inputs.validation)


@contextmanager
def opened_run(
    recipe: Recipe,
    clock: Clock,
    given: Given | None = None,
    *,
    images: Opening = "all",
    group: Group = ALONE,
) -> Iterator[Opened]:
    """Run `opened_inputs` and `exported`, one after the other.

    Raises:
        UsageError: see `opened_inputs`.
        LampqError: see `opened_inputs` and `exported`.
    """
    with (
        opened_inputs(recipe, clock, given, images=images) as inputs,
        exported(inputs, recipe, clock, images=images, group=group) as opened,
    ):
        yield opened
