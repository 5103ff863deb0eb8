"""What a file was made from: everything that its bytes depend on, kept in the file itself."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import onnx_ir as ir
from pydantic import ValidationError

from lampq_onnx.config.fields import Field
from lampq_onnx.config.recipe import FIELDS, Recipe, parse_values
from lampq_onnx.disk.records import Record
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.keys import HASH_KEY, INPUTS_KEY, RECIPE_KEY

PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "torch", "timm", "pulp", "highspy")
"""Whose versions can change the numbers or the graph."""


class Inputs(Record):
    """What decides the result beside the recipe.

    Attributes:
        weights_sha256: of the model.
        structure_sha256: of its modules' settings.
        preprocessing: of the images, as JSON.
        calibration_sha256: of the cropped calibration images and their labels.
        code_sha256: of this package's sources.
        versions: of Python and the packages that compute.
    """

    weights_sha256: str
    structure_sha256: str
    preprocessing: str
    calibration_sha256: str
    code_sha256: str
    versions: dict[str, str]

    def changes(self, other: Inputs) -> list[str]:
        """What is not the same in ``other``, in words."""
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
    """Of Python and of PACKAGES, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def code_sha256() -> str:
    """sha256 over the package's Python sources: the version alone stays the same while a checkout changes."""
    root = Path(str(resources.files("lampq_onnx")))
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def shaping(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The recipe's values without those that only say how the result is measured, or where files lie."""
    kept = {(field.section, field.name) for field in _shaping_fields()}
    values = recipe.values()
    if isinstance(recipe.images.calibration, Path):
        del values["images"]["calibration"]  # what is there counts, not where: see Inputs.calibration_sha256
    return {
        section: {name: value for name, value in own.items() if (section, name) in kept}
        for section, own in values.items()
    }


def provenance(recipe: Recipe, inputs: Inputs) -> dict[str, str]:
    """Entries for a file's metadata."""
    text = Recipe.build(shaping(recipe)).to_toml(only=_shaping_fields())
    record = inputs.model_dump_json()
    return {RECIPE_KEY: text, INPUTS_KEY: record, HASH_KEY: _hash(text, record)}


def read_provenance(model: ir.Model, path: Path) -> tuple[Recipe, Inputs]:
    """What `provenance` stored.

    Raises:
        LampqError: the file does not say how it was made, or what it says was changed.
    """
    props = model.metadata_props
    if RECIPE_KEY not in props or INPUTS_KEY not in props:
        raise LampqError(
            f"{path} does not say how it was made (metadata {RECIPE_KEY})",
            hint="files of `quantize` do; those of `convert` come from a plan, which may have been edited",
        )
    text, record = props[RECIPE_KEY], props[INPUTS_KEY]
    if props.get(HASH_KEY) != _hash(text, record):
        raise LampqError(f"{path}: the recipe in the file was changed after it was made ({HASH_KEY} does not fit)")
    try:
        return Recipe.build(parse_values(text, f"the recipe in {path}")), Inputs.model_validate_json(record)
    except ValidationError as error:
        raise LampqError(f"{path}: the metadata {INPUTS_KEY} is damaged") from error


def _hash(text: str, record: str) -> str:
    return hashlib.sha256(f"{text}\n{record}".encode()).hexdigest()


def _shaping_fields() -> tuple[Field, ...]:
    return tuple(field for field in FIELDS if field.shapes_file and field.same_as is None)
