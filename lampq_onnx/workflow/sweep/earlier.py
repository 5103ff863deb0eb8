"""An earlier sweep in the output folder, compared with the requested one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lampq_onnx.artifacts.sweep import Sweep
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.values import parse_values
from lampq_onnx.disk.existing import occupied
from lampq_onnx.disk.files import shortened
from lampq_onnx.errors import UsageError
from lampq_onnx.serving.derived import find_derived, mark_stale
from lampq_onnx.workflow.earlier import HINT, differences
from lampq_onnx.workflow.provenance import Inputs, shaping

SWEEP_FILE, SWEEP_TABLE, SWEEP_PAGE = SWEEP_FILES = ("sweep.json", "sweep.csv", "sweep.html")


class EarlierSweep:
    """The result of an earlier sweep in a folder.

    A sweep of the same recipe continues: its points are used, and its tables and its pick are replaced.

    Args:
        folder: folder of the sweep.
        overwrite: whether anything may be replaced.
        own: names of the files that a sweep writes to ``folder``.

    Raises:
        LampqError: sweep.json is damaged.
    """

    def __init__(self, folder: Path, *, overwrite: bool, own: Sequence[str]) -> None:
        self._folder = folder
        self._overwrite = overwrite
        self._picks = [name for name in own if name not in SWEEP_FILES and occupied(folder / name)]
        path = folder / SWEEP_FILE
        self._sweep = Sweep.load(path) if occupied(path) and not overwrite else None
        self._swept = any(occupied(folder / name) for name in SWEEP_FILES)
        self._derived = find_derived(folder, own)

    @property
    def picked(self) -> str | None:
        """The point whose files lie in the folder, if they stay."""
        return None if self._sweep is None else self._sweep.picked

    @property
    def request(self) -> str | None:
        """The request that it was picked for."""
        return None if self._sweep is None else self._sweep.request

    def require_recipe(self, recipe: Recipe, *, picks: bool) -> None:
        """Refuse a sweep of another recipe, and a pick that would replace files which no sweep wrote.

        Args:
            recipe: the requested recipe.
            picks: whether the files of a point are to be written.

        Raises:
            UsageError: names every option that differs, with its earlier and its new value, or the files.
        """
        if self._overwrite:
            return
        where = shortened(self._folder)
        if self._sweep is None:
            there = [name for name in SWEEP_FILES if occupied(self._folder / name)]
            there += self._picks if picks else []
            if there:
                raise UsageError(f"{where} holds {', '.join(there)}, which no finished sweep wrote", hint=HINT)
            return
        if self._sweep.recipe is None:
            raise UsageError(f"{where} holds a sweep that does not say its recipe", hint=HINT)
        before = Recipe.build(parse_values(self._sweep.recipe, f"the recipe in {SWEEP_FILE}"))
        changes = differences(_shape(before), _shape(recipe))
        if changes:
            raise UsageError(f"{where} holds the sweep of another recipe: {'; '.join(changes)}", hint=HINT)
        if picks and self._picks and self._sweep.picked is None:
            raise UsageError(f"{where} holds {', '.join(self._picks)}, which the sweep did not pick", hint=HINT)

    def require_inputs(self, now: Inputs) -> None:
        """Refuse another model, other images or other software under the same recipe.

        Raises:
            UsageError: names what differs.
        """
        if self._sweep is None or self._sweep.inputs is None:
            return
        changes = Inputs.model_validate_json(self._sweep.inputs).changes(now)
        if changes:
            raise UsageError(
                f"{shortened(self._folder)} holds a sweep of the same recipe with different inputs; "
                f"changed since then: {', '.join(changes)}",
                hint=HINT,
            )

    def retire(self, *, new_pick: bool, stays: bool) -> list[str]:
        """Mark an earlier sweep's pick, and remove or mark what was made from it, once the new files exist.

        Args:
            new_pick: whether the files of another point were written.
            stays: whether the earlier pick is a point of this sweep.

        Returns:
            What was done, as sentences.
        """
        if new_pick:
            return self._derived.retire()
        if stays or not self._swept:
            return []
        marked = [mark_stale(self._folder / name) for name in self._picks if (self._folder / name).exists()]
        return [*marked, *self._derived.retire()]


def shape_text(recipe: Recipe) -> str:
    """Return the recipe as text for sweep.json."""
    return Recipe.build(_shape(recipe)).to_toml()


def _shape(recipe: Recipe) -> dict[str, dict[str, object]]:
    """Return the recipe's values without average bits, which a sweep varies; metrics are not part of a recipe."""
    values = shaping(recipe)
    values["allocation"].pop("bits", None)
    return values
