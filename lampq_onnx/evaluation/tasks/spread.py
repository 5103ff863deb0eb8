"""The spread of real outputs over images, which is the unit of their errors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lampq_onnx.artifacts.task import TaskSpec
from lampq_onnx.errors import LampqError
from lampq_onnx.measures.error_meter import Outputs

LEAST = 1e-6
"""Smallest spread of an output, relative to its root mean square; below it, float32 rounding dominates."""

Floats = npt.NDArray[np.float64]


def output_spread(outputs: Outputs) -> tuple[float, ...]:
    """Compute the standard deviation of each output over the images.

    Args:
        outputs: (n, outputs), or maps (n, channels, h, w) or (n, h, w), whose pixels count like images.

    Returns:
        One number for each output or channel; one for maps without channels.

    Raises:
        LampqError: an output is the same on all images.
    """
    values = columns(outputs)
    spread, size = values.std(0), np.sqrt((values**2).mean(0))
    flat = np.flatnonzero(~(spread > LEAST * size))
    if flat.size:
        raise LampqError(
            f"output {flat[0]} of {values.shape[1]} is the same number on all {len(outputs)} calibration images, so "
            "its errors have no unit",
            hint="calibrate on two images or more that the model answers differently",
        )
    return tuple(float(value) for value in spread)


def columns(outputs: Outputs) -> Floats:
    """Arrange outputs as a table with one column per output or channel, float64."""
    values = outputs.astype(np.float64)
    if values.ndim == 2:
        return values
    if values.ndim == 3:
        return values.reshape(-1, 1)
    table: Floats = np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])
    return table


def units_of(spec: TaskSpec, outputs: Outputs) -> Floats:
    """Return the spread stored in a task, shaped to divide ``outputs``.

    Raises:
        LampqError: the task holds no spread, or that of another number of outputs.
    """
    count = 1 if outputs.ndim == 3 else outputs.shape[1]
    if len(spec.spread) != count:
        raise LampqError(
            f"the task {spec.kind} needs the spread of {count} output(s), but the file has {len(spec.spread)}",
            hint="quantize the model again: the spread is measured on the calibration images",
        )
    units = np.array(spec.spread, dtype=np.float64)
    return units.reshape(-1, 1, 1) if outputs.ndim == 4 else units
