"""The spread of real outputs over images, which is the unit of their errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lampq_onnx.artifacts.task import TaskSpec
from lampq_onnx.errors import LampqError
from lampq_onnx.measures.error_meter import Outputs

LEAST = 1e-6
"""Smallest spread of an output, relative to its root mean square; below it, float32 rounding dominates."""

LEAST_CHANNEL = 0.01
"""Smallest spread of a channel of features, relative to the root mean square over all channels."""

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


def feature_spread(outputs: Outputs) -> tuple[float, ...]:
    """Compute the standard deviation of each channel of features over all vectors of all images.

    Channels that hardly change, as those of dead units, get `LEAST_CHANNEL` of the root mean square over channels: an
    error in them counts, but not without bound.

    Args:
        outputs: (n, ...), see `channel_axis`.

    Raises:
        LampqError: the features of all images are the same.
    """
    values = columns(outputs, features=True)
    spread, size = values.std(0), float(np.sqrt((values**2).mean()))
    typical = float(np.sqrt((spread**2).mean()))
    if not typical > LEAST * size:
        raise LampqError(
            f"the features are the same on all {len(outputs)} calibration images, so their errors have no unit",
            hint="calibrate on two images or more that the model answers differently",
        )
    # Files store these numbers: six digits are enough for a unit.
    return tuple(float(f"{max(float(value), LEAST_CHANNEL * typical):.6g}") for value in spread)


def channel_axis(shape: Sequence[int]) -> int:
    """Return the axis of features (n, ...) that counts channels.

    Maps (n, channels, h, w) have it second, unless the second and the third axis are the equal sides of a map (n, h, w,
    channels). All other shapes, such as tokens (n, tokens, channels), have it last.
    """
    if len(shape) != 4 or (shape[1] == shape[2] != shape[3]):
        return len(shape) - 1
    return 1


def feature_units(spec: TaskSpec, outputs: Outputs) -> Floats:
    """Return the spread of each channel stored in a task, to divide a table of features by.

    Raises:
        LampqError: the task holds no spread, or that of another number of channels.
    """
    count = outputs.shape[channel_axis(outputs.shape)]
    if len(spec.spread) != count:
        raise _no_spread(spec, count)
    return np.array(spec.spread, dtype=np.float64)


def columns(outputs: Outputs, *, features: bool = False) -> Floats:
    """Arrange outputs as a table with one column per output or channel, float64."""
    values = outputs.astype(np.float64)
    axis = channel_axis(values.shape) if features else 1
    if not features and values.ndim == 3:
        return values.reshape(-1, 1)
    if not features and values.ndim == 2:
        return values
    table: Floats = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
    return table


def units_of(spec: TaskSpec, outputs: Outputs) -> Floats:
    """Return the spread stored in a task, shaped to divide ``outputs``.

    Raises:
        LampqError: the task holds no spread, or that of another number of outputs.
    """
    count = 1 if outputs.ndim == 3 else outputs.shape[1]
    if len(spec.spread) != count:
        raise _no_spread(spec, count)
    units = np.array(spec.spread, dtype=np.float64)
    return units.reshape(-1, 1, 1) if outputs.ndim == 4 else units


def unit_count(spec: TaskSpec, shape: Sequence[int]) -> int:
    """Return how many spreads the task needs for outputs of a shape (n, ...)."""
    if spec.kind == "features":
        return shape[channel_axis(shape)]
    return 1 if len(shape) == 3 else shape[1]


def _no_spread(spec: TaskSpec, count: int) -> LampqError:
    return LampqError(
        f"the task {spec.kind} needs the spread of {count} output(s), but the file has {len(spec.spread)}",
        hint="quantize the model again: the spread is measured on the calibration images",
    )
