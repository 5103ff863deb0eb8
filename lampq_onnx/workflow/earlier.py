"""The result of an earlier run in an output folder, compared with the requested run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lampq_onnx.artifacts.task import CLASSIFICATION
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.sections import FIELDS
from lampq_onnx.disk.existing import occupied
from lampq_onnx.disk.files import MODEL_FILE, OUTPUT_FILES, RECIPE_FILE, shortened
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.workflow.provenance import Inputs, read_provenance, shaping

PLACES = (("model", "checkpoint"), ("images", "calibration"))
"""Fields that hold paths; what lies there is compared by its content."""

HINT = "name another folder, or replace the result with --overwrite (overwrite=True in Python)"


@dataclass(frozen=True)
class Earlier:
    """A finished result in a folder.

    Attributes:
        folder: the folder.
        shape: the recipe stored in its model.onnx, without options that only say how it is measured.
        inputs: everything else that decided its bytes.
        recipe: the recipe file beside it; None: it cannot be read.
        complete: whether all files exist.
    """

    folder: Path
    shape: Recipe
    inputs: Inputs
    recipe: Recipe | None
    complete: bool

    def require_recipe(self, recipe: Recipe) -> None:
        """Refuse a recipe that would give another file.

        Raises:
            UsageError: names every option that differs, with its earlier and its new value.
        """
        changes = differences(shaping(self.shape), shaping(self._with_task(recipe)))
        if changes:
            raise UsageError(
                f"{shortened(self.folder)} holds the result of another recipe: {'; '.join(changes)}", hint=HINT
            )

    def require_inputs(self, now: Inputs) -> None:
        """Refuse another model, other images or other software under the same recipe.

        Raises:
            UsageError: names what differs.
        """
        changes = self.inputs.changes(now)
        if changes:
            raise UsageError(
                f"{shortened(self.folder)} holds a result of the same recipe with different inputs; "
                f"changed since then: {', '.join(changes)}",
                hint=HINT,
            )

    def measured_otherwise(self, recipe: Recipe) -> list[str]:
        """Describe the options that differ but only say how the result is measured."""
        if self.recipe is None:
            return [f"{RECIPE_FILE} cannot be read"]
        before, now = self.recipe.values(), self._with_task(recipe).values()
        for section, name in PLACES:
            before.get(section, {}).pop(name, None)
            now.get(section, {}).pop(name, None)
        return differences(before, now)

    def _with_task(self, recipe: Recipe) -> Recipe:
        """Return the recipe with its task written as in the earlier run, if both mean the same."""
        found = self.shape.model.task
        if found != "auto":
            return recipe.with_task(found)
        # A run that is left to find its task writes down every other one.
        if recipe.model.task != CLASSIFICATION.kind:
            return recipe
        return recipe.model_copy(update={"model": recipe.model.model_copy(update={"task": "auto"})})


def earlier_result(folder: Path) -> Earlier | None:
    """Read what an earlier run left in ``folder``; None: nothing.

    Raises:
        UsageError: files with these names exist, but they are not the result of a run.
    """
    present = [name for name in OUTPUT_FILES if occupied(folder / name)]
    if not present:
        return None
    model = folder / MODEL_FILE
    try:
        shape, inputs = read_provenance(load_model(model), model)
    except LampqError as error:
        raise UsageError(
            f"{shortened(folder)} holds {', '.join(present)}, which no finished run wrote ({error.message})", hint=HINT
        ) from error
    try:
        beside: Recipe | None = Recipe.load(folder / RECIPE_FILE)
    except LampqError:
        beside = None  # reported by `measured_otherwise`
    return Earlier(folder, shape, inputs, beside, complete=len(present) == len(OUTPUT_FILES))


def differences(before: dict[str, dict[str, object]], now: dict[str, dict[str, object]]) -> list[str]:
    """Describe the options that differ between two recipes' values, as old -> new."""
    return list(_differences(before, now))


def _differences(before: dict[str, dict[str, object]], now: dict[str, dict[str, object]]) -> Iterator[str]:
    for field in FIELDS:
        old, new = (values.get(field.section, {}).get(field.name) for values in (before, now))
        if field.same_as is None and old != new and not _one_file(old, new):
            name = "the model" if field.flag == "model" else field.dashed
            yield f"{name} {_text(old)} -> {_text(new)}"


def _one_file(old: object, new: object) -> bool:
    """Whether two values are names of the same file."""
    if not isinstance(old, str) or not isinstance(new, str):
        return False
    first, second = Path(old), Path(new)
    return first.is_file() and second.is_file() and first.samefile(second)


def _text(value: object) -> str:
    return "not given" if value is None or value in ({}, []) else str(value)
