"""Provenance of a file: everything that its bytes depend on, stored in the file itself."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib import metadata, resources
from pathlib import Path

import onnx_ir as ir
from pydantic import ValidationError

from lampq_onnx.config.fields import Field
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.sections import FIELDS
from lampq_onnx.config.values import parse_values
from lampq_onnx.disk.records import Record
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.keys import HASH_KEY, INPUTS_KEY, RECIPE_KEY

PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "torch", "timm", "pulp", "highspy")
"""Packages whose versions can change the numbers or the graph."""


class Inputs(Record):
    """Everything beside the recipe that decides the result.

    Attributes:
        weights_sha256: hash of the model's weights.
        structure_sha256: hash of the settings of its modules.
        preprocessing: preprocessing of the images, as JSON.
        calibration_sha256: hash of the cropped calibration images and their labels.
        code_sha256: hash of this package's sources.
        versions: versions of Python and of the packages that compute.
    """

    weights_sha256: str
    structure_sha256: str
    preprocessing: str
    calibration_sha256: str
    code_sha256: str
    versions: dict[str, str]

    def changes(self, other: Inputs) -> list[str]:
        """Describe what differs in ``other``."""
        names = {
            "weights_sha256": "the weights of the model",
            "structure_sha256": "the settings of the model's modules",
            "preprocessing": "the preprocessing",
            "calibration_sha256": "the calibration images",
            "code_sha256": "the code of lampq-onnx",
        }
        found = [text for key, text in names.items() if getattr(self, key) != getattr(other, key)]
        for name in {**self.versions, **other.versions}:
            mine, theirs = self.versions.get(name, "none"), other.versions.get(name, "none")
            if mine != theirs:
                found.append(f"{name} {mine}, now {theirs}")
        return found


def versions() -> dict[str, str]:
    """Return the versions of Python and of PACKAGES, if installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def code_sha256() -> str:
    """Hash the package's Python sources: the version alone does not change while a checkout is edited."""
    root = Path(str(resources.files("lampq_onnx")))
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def shaping(recipe: Recipe) -> dict[str, dict[str, object]]:
    """Return the recipe's values without those that only say how the result is measured, or where files lie."""
    kept = {(field.section, field.name) for field in _shaping_fields()}
    values = recipe.values()
    if isinstance(recipe.images.calibration, Path):
        del values["images"]["calibration"]  # the content counts, not the path: see Inputs.calibration_sha256
    return {
        section: {name: value for name, value in own.items() if (section, name) in kept}
        for section, own in values.items()
    }


def provenance(recipe: Recipe, inputs: Inputs) -> dict[str, str]:
    """Return the metadata entries for a file."""
    text = Recipe.build(shaping(recipe)).to_toml(only=_shaping_fields())
    record = inputs.model_dump_json()
    return {RECIPE_KEY: text, INPUTS_KEY: record, HASH_KEY: _hash(text, record)}


def read_provenance(model: ir.Model, path: Path) -> tuple[Recipe, Inputs]:
    """Read what `provenance` stored in a file.

    Raises:
        LampqError: the file does not say how it was made, or the entries were changed.
    """
    props = model.metadata_props
    if RECIPE_KEY not in props or INPUTS_KEY not in props:
        raise LampqError(
            f"{path} does not say how it was made (metadata {RECIPE_KEY})",
            hint="only files of `quantize` do; those of `convert` come from a plan, which may have been edited",
        )
    text, record = props[RECIPE_KEY], props[INPUTS_KEY]
    if props.get(HASH_KEY) != _hash(text, record):
        raise LampqError(f"{path}: the recipe in the file was changed after it was written ({HASH_KEY} does not fit)")
    try:
        return Recipe.build(parse_values(text, f"the recipe in {path}")), Inputs.model_validate_json(record)
    except ValidationError as error:
        raise LampqError(f"{path}: the metadata {INPUTS_KEY} is damaged") from error


def _hash(text: str, record: str) -> str:
    return hashlib.sha256(f"{text}\n{record}".encode()).hexdigest()


def _shaping_fields() -> tuple[Field, ...]:
    return tuple(field for field in FIELDS if field.shapes_file and field.same_as is None)
