"""`quantize` without a model: on a terminal, the embedded example is offered."""

from __future__ import annotations

from pathlib import Path

import typer

from lampq_onnx.cli.parameters import override
from lampq_onnx.cli.questions import can_ask
from lampq_onnx.config.inputs import DIGITS
from lampq_onnx.config.sections import Values

FOLDER = Path("lampq-example")

OFFER = f"""No model is named. The embedded example needs nothing: a small Vision Transformer for
handwritten digits gets 2 bits per weight on average, and is compared with uniform bits.
That takes about a minute. Quantize it to the folder {FOLDER}?"""


def example_wanted(model: str | None, values: Values) -> bool:
    """Whether no model is named, and a person wants the embedded example."""
    if model is not None or "name" in values.get("model", {}) or not can_ask():
        return False
    return typer.confirm(OFFER, default=True)


def embedded_example(values: Values) -> tuple[str, Path, Values]:
    """Return model, folder and options of the example; options that were given stay as they are."""
    values = values if "bits" in values.get("allocation", {}) else override(values, "allocation", bits=2.0)
    return DIGITS, FOLDER, override(values, "output", baselines=("uniform",))
