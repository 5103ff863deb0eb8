"""Creates timm models and checks their arguments."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch

from lampq_onnx.errors import LampqError, first_line, is_out_of_memory
from lampq_onnx.frontend.models.timm_sources import timm_source


def create(name: str, arguments: Mapping[str, Any], *, pretrained: bool = False) -> torch.nn.Module:
    """Create a timm model.

    Args:
        name: name of the model in timm.
        arguments: passed on to the constructor.
        pretrained: let timm download the weights.

    Raises:
        LampqError: the model is unknown, it does not accept an argument, or the download failed.
    """
    if timm_source(name) is None and not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        raise LampqError(
            f"timm {timm.__version__} knows no model {name!r}",
            hint=f"did you mean {', '.join(near)}?" if near else "`lampq-onnx list models` prints all of them",
        )
    try:
        module: torch.nn.Module = timm.create_model(name, pretrained=pretrained, **arguments)
    except Exception as error:  # constructors and downloads fail in many ways
        if is_out_of_memory(error):
            raise
        # If arguments contradict each other, none may be wrong alone; timm's message then often names one of them.
        wrong = _misfits(name, arguments) or [key for key in arguments if key in str(error)]
        if pretrained and not wrong:
            raise LampqError(
                f"timm cannot download the weights of {name}: {first_line(error)}",
                hint="give a file with --checkpoint instead",
            ) from error
        shown = " ".join(f"{key}={_typed(arguments[key])}" for key in wrong or arguments)
        with_what = f" with --model-arg {shown}" if shown else ""
        raise LampqError(
            f"timm cannot create {name}{with_what}: {first_line(error)}",
            hint="check the --model-arg values",
        ) from error
    return module


def timm_names() -> list[str]:
    """Names of all models that this timm can build, sorted; most are Vision Transformers or relatives of them."""
    names: list[str] = timm.list_models()
    return names


def image_sides(value: Any) -> tuple[int, int]:
    """Height and width that an img_size stands for: one number for both, or two numbers.

    Raises:
        LampqError: the value is neither.
    """
    sides = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value, value)
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) for side in sides):
        raise LampqError(
            f"img_size is {_typed(value)}, but must be one number of pixels, or two for height and width",
            hint="e.g. --model-arg img_size=32,64",
        )
    return sides[0], sides[1]


def built_arguments(module: torch.nn.Module) -> dict[str, Any]:
    """The img_size that a timm model was built for, if the model stores it; timm's configuration does not."""
    size = getattr(getattr(module, "patch_embed", None), "img_size", None)
    return {} if size is None else {"img_size": image_sides(size)}


def _misfits(name: str, arguments: Mapping[str, Any]) -> list[str]:
    """Arguments without which the model can be created; timm's own messages do not name them.

    The models are created without data, so nothing is computed and no memory is used.
    """
    return [key for key in arguments if _can_create(name, {k: v for k, v in arguments.items() if k != key})]


def _can_create(name: str, arguments: Mapping[str, Any]) -> bool:
    try:
        with torch.device("meta"):
            timm.create_model(name, **arguments)
    except Exception:  # any failure means that the remaining arguments may be wrong too
        return False
    return True


def _typed(value: Any) -> str:
    """A value as typed on the command line."""
    if isinstance(value, tuple | list):
        return "[" + ",".join(map(_typed, value)) + "]"
    return repr(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
