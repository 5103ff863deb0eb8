"""Time several sessions alternately."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

WARM_UP = 2

TURN_MS = 2.0
"""Shortest turn of one session in ms; long turns reduce the effect of clocks and of the first, cold run."""


@dataclass(frozen=True)
class Timing:
    """Median of the turns in ms, and its standard error as a fraction of it."""

    milliseconds: float
    noise: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Timing:
        """Compute the timing from the mean times of the turns.

        The standard error of the median is 1.253 sigma / sqrt(n). Sigma comes from the interquartile range, as for a
        normal distribution: other programs cause outliers, which would dominate a standard deviation.
        """
        low, middle, high = (float(value) for value in np.percentile(samples, [25, 50, 75]))
        return cls(middle, 1.253 * (high - low) / 1.349 / math.sqrt(len(samples)) / middle)


def time_in_turns(sessions: Sequence[Any], x: npt.NDArray[np.float32], rounds: int) -> list[Timing]:
    """Time sessions alternately with one input ``x``, so that drifts of the machine affect all of them."""
    repeats = [max(1, math.ceil(TURN_MS / _once(session, x))) for session in sessions]
    samples: list[list[float]] = [[] for _ in sessions]
    for turn in range(rounds):
        order = range(len(sessions)) if turn % 2 else reversed(range(len(sessions)))
        for which in order:
            samples[which].append(_mean(sessions[which], x, repeats[which]))
    return [Timing.of(own) for own in samples]


def _once(session: Any, x: npt.NDArray[np.float32]) -> float:
    return min(_mean(session, x, 1) for _ in range(1 + WARM_UP))


def _mean(session: Any, x: npt.NDArray[np.float32], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        session.run(None, {"x": x})
    return 1e3 * (time.perf_counter() - start) / repeats
