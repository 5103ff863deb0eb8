"""Arguments of Python functions, read as the command line reads its words: a recipe, and objects beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from lampq_onnx.config.keywords import TAKEN
from lampq_onnx.config.lookup import by_flag
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.sections import Values
from lampq_onnx.config.values import by_name, read_values
from lampq_onnx.data import Preprocessing
from lampq_onnx.errors import UsageError
from lampq_onnx.workflow.inputs import Given

Images: TypeAlias = str | Path | Iterable[object]
"""A path (folder, .npz, .parquet, .tar or .csv), a data set, or batches.

Data sets are those of Hugging Face (columns image and label) and of torchvision without transforms: their images go
through the model's preprocessing. Batches are those of a DataLoader, or arrays (n, c, h, w), each alone or with labels
(n,).

Batches are float32 and normalized as the model takes them. They are gone through once.
"""

Module: TypeAlias = Callable[..., object]
"""A torch.nn.Module that gives logits (n, classes) for images (n, c, h, w)."""


def values_of(function: str, options: Mapping[str, object], **named: object) -> Values:
    """What a call of a function says, sorted into the sections of a recipe; None stands for not given.

    Args:
        function: its name.
        options: its further keyword arguments.
        named: options that its signature names.

    Raises:
        UsageError: an unknown name, an option of other functions, or a value that the option cannot have.
    """
    for name in options:
        field = by_flag(name)
        if not {field.flag, field.name} & (TAKEN[function] | named.keys()):
            others = [other for other, taken in TAKEN.items() if {field.flag, field.name} & taken]
            hint = f"it is one of {', '.join(others)}" if others else ""
            raise UsageError(f"the option {name!r} is not for {function}", hint=hint)
    return by_name({**named, **options})


def call_of(
    function: str,
    options: Mapping[str, object],
    *,
    model: str | Path | Module,
    preprocessing: Preprocessing | None,
    calibration: Images | None,
    validation: Images | None = None,
    recipe: Recipe | str | Path | None,
    **named: object,
) -> tuple[Values, Values, Given]:
    """What a call of a function says about a model.

    Args:
        function: its name.
        options: its further keyword arguments.
        model: a name, a file or a module.
        preprocessing: what the images of a module go through.
        calibration: images by their place, or as batches.
        validation: likewise.
        recipe: what the other arguments override.
        named: options that its signature names.

    Returns:
        values of the recipe, those of the arguments, and the Python objects among the arguments.

    Raises:
        UsageError: see `values_of`.
        LampqError: the recipe cannot be read.
    """
    name, module = (str(model), None) if isinstance(model, str | Path) else (type(model).__name__, model)
    values = values_of(
        function,
        options,
        model=name,
        calibration=place_of(calibration),
        validation=place_of(validation),
        **named,
    )
    given = Given(
        module=module,
        preprocessing=preprocessing,
        calibration=objects_of(calibration),
        validation=objects_of(validation),
    )
    if recipe is None:
        base: Values = {}
    else:
        base = recipe.values() if isinstance(recipe, Recipe) else read_values(Path(recipe))
    return base, values, given


def place_of(images: Images | None) -> str | Path | None:
    """The place of images on the disk; None: they are Python objects, or there are none."""
    return images if isinstance(images, str | Path) else None


def objects_of(images: Images | None) -> Iterable[object] | None:
    """Images that are Python objects; None: they lie on the disk, or there are none."""
    return None if isinstance(images, str | Path) else images
