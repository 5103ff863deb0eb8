"""Decide whether one loss is lower than another on a sample of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

EVIDENCE = 2.0
"""Standard errors by which a loss must be lower to count as lower. Of dozens of equal choices on tens of images, the
lowest is noise, and picking it fifty times in a row fits the images."""

TENTH = 1.28
"""Score that a normal variable exceeds with a chance of one in ten."""

LEAST_SEEN = 8
"""Pairs below which nothing is given up: the scatter of a few pairs says little, and that of one nothing."""

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


def perhaps_lower(
    losses: Sequence[float] | FloatArray,
    others: Sequence[float] | FloatArray,
    count: int,
    *,
    evidence: float = EVIDENCE,
) -> bool:
    """Whether some of ``count`` paired losses leave a chance that all of them are `clearly_lower`.

    If the other pairs are like these, the score of all pairs is normal around score / sqrt(share), with a variance of
    1 - share. A chance below one in ten is none; it is that of each look, and a comparison may take several. Less than
    `LEAST_SEEN` pairs decide nothing, unless they are all.
    """
    if len(losses) < min(count, LEAST_SEEN):
        return True
    differences = _differences(losses, others)
    share = min(1.0, len(differences[0]) / count)
    needed = share**0.5 * (evidence - TENTH * (1 - share) ** 0.5)
    return any(bool(values.mean() < min(-needed * error_of_mean(values), 0.0)) for values in differences)


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
