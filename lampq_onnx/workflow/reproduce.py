"""Make a quantized file again from the recipe that it holds."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.sections import Values
from lampq_onnx.config.stages import stages_of
from lampq_onnx.disk.existing import require_new_files
from lampq_onnx.disk.files import FLOAT_FILE, MODEL_FILE, RECIPE_FILE, staging
from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.shared.threads import torch_threads
from lampq_onnx.graph.keys import HASH_KEY, INPUTS_KEY, SOURCE_KEY
from lampq_onnx.graph.model_file import load_model, save_model
from lampq_onnx.running.progress import NO_PROGRESS, Clock, ProgressSink
from lampq_onnx.runtime.environment import available_cores, target_here
from lampq_onnx.workflow.opened import opened_run
from lampq_onnx.workflow.output import write_quantized
from lampq_onnx.workflow.provenance import Inputs, provenance, read_provenance, shaping
from lampq_onnx.workflow.search import Search, inputs_of, kept_for

_log = logging.getLogger(__name__)

CONTENT = ("weights_sha256", "structure_sha256", "preprocessing", "calibration_sha256")
"""Fields of `Inputs` that must be equal, or starting is pointless."""


@dataclass(frozen=True)
class Reproduction:
    """The outcome of a reproduction.

    Attributes:
        sha256: hash of the file.
        changes: empty: the new file is identical bit for bit; otherwise the versions that differ, with the same graph
            and weights.
    """

    sha256: str
    changes: tuple[str, ...]


def reproduce(
    path: Path,
    places: Values,
    output: Path | None = None,
    *,
    overwrite: bool = False,
    progress: ProgressSink = NO_PROGRESS,
) -> Reproduction:
    """Make a file of `quantize` again; no results of earlier runs are used.

    The file holds the options that decide its bytes. Where weights and images lie is not among them: that is read from
    the recipe.toml beside the file, if there is one.

    Args:
        path: the file.
        places: where weights and images are now, and the device; they come before the recipe.toml.
        output: where to keep the new file; None: nowhere.
        overwrite: replace ``output`` if it exists.
        progress: is told about stages.

    Raises:
        LampqError: the file does not say how it was made, the model or the images are different, or the new file
            differs.
    """
    require_new_files((output,), overwrite=overwrite)
    stored, before = read_provenance(load_model(path), path)
    recipe = Recipe.build(stored.values(), _values_beside(path, stored), places)
    clock = Clock(progress)
    with (
        torch_threads(recipe.output.threads or available_cores()),
        opened_run(recipe, clock, images="calibration") as opened,
        tempfile.TemporaryDirectory(prefix="lampq-") as folder,
    ):
        frontend, crops = opened.calibrated()
        now = inputs_of(frontend.loaded, crops)
        _require_same(path, before, now)
        target = target_here(recipe.output.target_name)
        kept = kept_for(now, frontend.loaded.task, recipe, None, clock)
        found = Search(frontend, crops, recipe, stages_of(recipe, target), kept, clock).run(last=True)
        made, source = Path(folder, MODEL_FILE), Path(folder, FLOAT_FILE)
        with clock.stage("conversion"):
            save_model(frontend.model, source)
            write_quantized(
                load_model(source), found.plan, found.rounded.weights, made, recipe.output, target,
                provenance(stored, now),
            )  # fmt: skip
        if output is not None:
            _keep(made, output)
        digest = _sha256(made, whole=True)
        if digest == _sha256(path, whole=True):
            return Reproduction(digest, ())
        changes = tuple(before.changes(now))
        if changes and _sha256(made, whole=False) == _sha256(path, whole=False):
            return Reproduction(digest, changes)
    why = f"changed since then: {'; '.join(changes)}" if changes else "all its inputs are the same"
    raise LampqError(
        f"{path} was made again and differs; {why}",
        hint="install these versions" if changes else "other kinds of processors round sums differently",
    )


def _values_beside(path: Path, stored: Recipe) -> Values:
    """The options in the recipe.toml that `quantize` wrote beside the file; none where it is not this file's.

    A recipe that is not used is a warning and no error: the options of the command line can say the same.
    """
    beside = path.with_name(RECIPE_FILE)
    if not beside.is_file():
        return {}
    try:
        recipe = Recipe.load(beside)
    except LampqError as error:
        _log.warning("%s is not used: %s", beside, error.message)
        return {}
    if shaping(recipe) != shaping(stored):
        _log.warning("%s is not used: it is the recipe of another file than %s", beside, path.name)
        return {}
    return recipe.values()


def _require_same(path: Path, before: Inputs, now: Inputs) -> None:
    rest = {name: value for name, value in before if name not in CONTENT}
    other = before.changes(now.model_copy(update=rest))
    if other:
        raise LampqError(
            f"{path} was made from different inputs: {', '.join(other)} differ",
            hint="give the original inputs: --checkpoint, --calibration",
        )


def _sha256(path: Path, *, whole: bool) -> str:
    """Hash a file and its external data; if not ``whole``, without the versions that it names."""
    if whole:
        digest = hashlib.sha256(path.read_bytes())
    else:
        model = load_model(path)
        for key in (INPUTS_KEY, HASH_KEY, SOURCE_KEY):  # older files lack the last one, which follows from the weights
            model.metadata_props.pop(key, None)
        with tempfile.TemporaryDirectory(prefix="lampq-") as folder:
            bare = Path(folder, MODEL_FILE)
            save_model(model, bare)
            return _sha256(bare, whole=True)
    data = path.with_name(path.name + ".data")
    if data.exists():
        digest.update(data.read_bytes())
    return digest.hexdigest()


def _keep(made: Path, output: Path) -> None:
    data = made.with_name(made.name + ".data")
    if data.exists() and output.name != made.name:
        raise LampqError(f"{output}: a model with external data must be called {made.name}")
    with staging(output.parent, (output.name,)) as stage:
        shutil.copyfile(made, stage / output.name)
        if data.exists():
            shutil.copyfile(data, stage / data.name)
