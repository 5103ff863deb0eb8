"""Questions that `init` asks on a terminal about what was not given as an option."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from lampq_onnx.cli.parameters import override
from lampq_onnx.config.inputs import DIGITS
from lampq_onnx.config.sections import Values

MODEL = "Model (a timm name, an .onnx file, a folder of transformers, or digits)"
CHECKPOINT = "File with its weights (empty: timm's own, which are downloaded)"
CALIBRATION = "Calibration images: a folder or .npz, 128 are enough (synthetic: made from the model)"
VALIDATION = "Validation images with labels: a folder of class folders, or .npz"


def can_ask() -> bool:
    """Whether a person sits in front of the command."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def asked_values(model: str | None, values: Values) -> tuple[str, Values]:
    """Return the model and all values, those that were asked for included; without a terminal nothing is asked.

    Args:
        model: the model that was given; None: it is asked for, or is the embedded one.
        values: options that were given.
    """
    if not can_ask():
        return DIGITS if model is None else model, values
    name = typer.prompt(MODEL, default=DIGITS) if model is None else model
    if name == DIGITS:
        return name, values
    own, images = values.get("model", {}), values.get("images", {})
    if not ({"checkpoint", "pretrained"} & own.keys() or name.endswith(".onnx") or Path(name).is_dir()):
        weights = typer.prompt(CHECKPOINT, default="", show_default=False)
        values = override(values, "model", **({"checkpoint": Path(weights)} if weights else {"pretrained": True}))
    if "calibration" not in images:
        values = override(values, "images", calibration=_images(typer.prompt(CALIBRATION, default="synthetic")))
    if "validation" not in images:
        values = override(values, "images", validation=_images(typer.prompt(VALIDATION)))
    return name, values


def _images(answer: str) -> str | Path:
    return answer if answer in ("synthetic", "noise") else Path(answer)
