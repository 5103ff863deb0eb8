"""Decide whether one loss is lower than another on a sample of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

EVIDENCE = 2.0
"""Standard errors by which a loss must be lower to count as lower. Of dozens of equal choices on tens of images, the
lowest is noise, and picking it fifty times in a row fits the images."""

FloatArray = npt.NDArray[np.float64]


def clearly_lower(
    losses: Sequence[float] | FloatArray, others: Sequence[float] | FloatArray, *, evidence: float = EVIDENCE
) -> bool:
    """Whether the mean of paired losses (n,) is lower by more than the scatter of the pairs explains.

    Either the differences themselves show it, or the differences relative to the sums of magnitudes. If one image makes
    up most of the loss, it makes up the scatter too, and a change that is better on every image would not count
    otherwise.
    """
    difference, relative = _differences(losses, others)
    if not bool(difference.mean() < 0):
        return False
    if len(difference) < 2:
        return True
    return any(bool(values.mean() < -evidence * error_of_mean(values)) for values in (difference, relative))


def perhaps_lower(losses: Sequence[float] | FloatArray, others: Sequence[float] | FloatArray) -> bool:
    """Whether paired losses (n,) are lower on average, by themselves or relative to the sums of magnitudes.

    If they are not on a part of the images, measuring the rest hardly ever makes them `clearly_lower`.
    """
    return any(bool(values.mean() < 0) for values in _differences(losses, others))


def _differences(
    losses: Sequence[float] | FloatArray, others: Sequence[float] | FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Differences of paired losses, and the same relative to the sums of magnitudes."""
    first, second = np.asarray(losses, dtype=np.float64), np.asarray(others, dtype=np.float64)
    difference = first - second
    return difference, difference / np.maximum(np.abs(first) + np.abs(second), np.finfo(np.float64).tiny)


def error_of_mean(values: FloatArray) -> float:
    """Return the standard error of the mean of values (n,); 0 for a single value."""
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0
