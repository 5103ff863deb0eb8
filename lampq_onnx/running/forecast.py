"""How much of a run is done, and how long the rest takes, from the seconds that each stage is expected to need."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

PRIOR = 5.0
"""Seconds for which expectations count as measured: the first short stages do not change the speed by much."""

ALMOST = 0.95
"""Part of a stage that is shown as done while it lasts longer than expected."""


class Forecast:
    """The stages of a run, with the seconds that each is expected to take.

    Stages that the run leaves out are passed over when a later one begins. Stages that nobody expected take the time
    they take; the bar waits for them.

    Args:
        expected: stage -> seconds, in the order of the run; the second call of a stage is ``name#2``.
        fixed: stages that do not say how fast the others are, such as loading.
        parameters: size of the model for which the seconds are meant; None: of the model at hand.
    """

    def __init__(
        self, expected: Mapping[str, float], fixed: frozenset[str] = frozenset(), parameters: int | None = None
    ) -> None:
        self._expected = dict(expected)
        self._parameters = parameters
        self._fixed = fixed
        self._places = {key: place for place, key in enumerate(self._expected)}
        self._calls: Counter[str] = Counter()
        self._next = 0
        self._current: str | None = None
        self._measured = self._foreseen = 0.0
        self._shown = 0.0

    def begin(self, stage: str) -> str:
        """Begin a stage; return its key, with the number of the call if it is not the first."""
        self._calls[stage] += 1
        key = stage if self._calls[stage] == 1 else f"{stage}#{self._calls[stage]}"
        self._current = key
        if key in self._places:
            self._next = max(self._next, self._places[key])
        return key

    def end(self, key: str, seconds: float) -> None:
        """End a stage that took ``seconds``."""
        self._current = None
        if key not in self._places:
            return
        self._next = max(self._next, self._places[key] + 1)
        if key.partition("#")[0] not in self._fixed:
            self._measured += seconds
            self._foreseen += self._expected[key]

    def model_size(self, parameters: int) -> None:
        """Scale the seconds of the stages that have not begun to the size of the model.

        Measured on a ViT of 0.1, a DeiT-Ti of 5.7 and a ViT-B of 86 million parameters, a run grew with about the
        square root of the size.
        """
        if self._parameters is None:
            return
        factor = math.sqrt(max(parameters, 1) / self._parameters)
        for key in self._pending():
            if key.partition("#")[0] not in self._fixed:
                self._expected[key] *= factor

    def fraction(self, elapsed: float = 0.0, inner: float | None = None) -> float:
        """Part of the run that is done, 0 to 1; it never falls.

        Args:
            elapsed: seconds since the current stage began.
            inner: part of the current stage that is done; None: not known.
        """
        total = math.fsum(self._expected.values())
        if total <= 0:
            return self._shown
        now = self._expected.get(self._current or "", 0.0)
        done = math.fsum(value for key, value in self._expected.items() if self._places[key] < self._next)
        self._shown = max(self._shown, min((done + now * self._part(elapsed, inner)) / total, 1.0))
        return self._shown

    def left(self, elapsed: float = 0.0, inner: float | None = None) -> float | None:
        """Seconds until the end; None if no stage is expected."""
        if not self._expected:
            return None
        rest = math.fsum(self._expected[key] for key in self._pending()) * self._rate()
        return rest + self._rest_of_stage(elapsed, inner)

    def _pending(self) -> list[str]:
        return [key for key, place in self._places.items() if place >= self._next and key != self._current]

    def _rate(self) -> float:
        """How much longer stages take than expected."""
        return (self._measured + PRIOR) / (self._foreseen + PRIOR)

    def _part(self, elapsed: float, inner: float | None) -> float:
        if inner is not None:
            return inner
        expected = self._expected.get(self._current or "", 0.0) * self._rate()
        return min(elapsed / expected, ALMOST) if expected > 0 else ALMOST

    def _rest_of_stage(self, elapsed: float, inner: float | None) -> float:
        if inner:
            return elapsed * (1 - inner) / inner
        return max(self._expected.get(self._current or "", 0.0) * self._rate() - elapsed, 0.0)
