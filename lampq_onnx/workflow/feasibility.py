"""Checks before measuring: can the budgets be kept, and does the result fit on the disk?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lampq_onnx.allocation.budgets import require_possible as budgets_possible
from lampq_onnx.artifacts import LatencyTable, LayerSensitivity, Sensitivities
from lampq_onnx.artifacts.sensitivities import ActivationRange
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.disk.files import require_space
from lampq_onnx.graph.model_file import model_bytes
from lampq_onnx.targets import Target
from lampq_onnx.workflow.planning import limits_of

if TYPE_CHECKING:
    from lampq_onnx.frontend.session import Frontend
    from lampq_onnx.frontend.shared.loaded import LoadedModel

FLOAT_BYTES = 4

FILES_OVER_FLOAT = 1.5
"""Bytes of all files over those of float.onnx: the file itself, and at 8 bits a quarter each for model.onnx and the
weights."""

BASELINE_OVER_FLOAT = 0.25
"""Share for the file of another plan, which exists while it is measured."""


def require_space_for(loaded: LoadedModel, folder: Path, *, baselines: int) -> None:
    """Refuse a run whose files do not fit on the disk of ``folder``.

    Args:
        loaded: the model.
        folder: where the files go.
        baselines: number of plans that are measured beside the recipe's own, one after the other.

    Raises:
        LampqError: names the needed and the free space.
    """
    size = FLOAT_BYTES * sum(value.numel() for value in loaded.module.parameters())
    share = FILES_OVER_FLOAT + (BASELINE_OVER_FLOAT if baselines else 0.0)
    require_space(folder, int(share * size), f"the result of {loaded.identity.name}")


def require_possible(frontend: Frontend, recipe: Recipe, target: Target) -> None:
    """Refuse budgets that no plan of the model can keep, or that the float model keeps.

    Raises:
        LampqError: names the smallest possible value, or the value below which something is quantized.
    """
    path, options, packing = recipe.budgets.latency, recipe.allocation, recipe.output.packing
    budgets_possible(
        unmeasured(frontend),
        limits_of(options, recipe.budgets, bits_count=recipe.bits_count),
        options,
        target=target,
        packing=None if packing == "auto" else packing,
        table=None if path is None else LatencyTable.load(path),
    )


def unmeasured(frontend: Frontend) -> Sensitivities:
    """Return the model's layers and the size of its file; all measurements are placeholders."""
    elements = frontend.input_elements()
    layers = tuple(
        LayerSensitivity(
            name=layer.name,
            type=layer.type,
            parameters=layer.parameters,
            shape=layer.matrix().shape,
            fixed=layer.fixed,
            float_input=layer.float_input,
            activation_range=ActivationRange(low=0.0, high=0.0),
            activation_elements=elements[layer.name],
        )
        for layer in frontend.exported.layers
    )
    return Sensitivities(
        model=frontend.loaded.identity,
        layers=layers,
        alpha_bits=1,
        alpha_measure="kl",
        activation_bits=8,
        labels="sampled",
        calibration_images=0,
        seed=0,
        float_bytes=model_bytes(frontend.model),
    )
