"""One line about a whole run: the part that is done, the stage in words, and the time left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from lampq_onnx.running.forecast import Forecast
from lampq_onnx.running.progress import Advance
from lampq_onnx.running.words import KEPT, seconds_text, words_for


class Overall:
    """Follows the stages of a run; subclasses show them. Also a context, which ends what is shown.

    Args:
        forecast: the expected stages.
    """

    def __init__(self, forecast: Forecast) -> None:
        self.forecast = forecast
        self.seconds: dict[str, float] = {}
        """Stage, with the number of its call -> seconds that it took; results of earlier runs are not in it."""
        self._start = time.perf_counter()
        self._stages: list[_Stage] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what is shown."""

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Start a stage, see `ProgressSink`."""
        stage = _Stage(name, total, time.perf_counter(), self.forecast.begin(name))
        self._stages.append(stage)
        self.began(words_for(name))

        def advance(done: int) -> None:
            stage.done = done
            self.changed()

        try:
            yield advance
        finally:
            self._stages.remove(stage)
        took = time.perf_counter() - stage.start
        self.forecast.end(stage.key, took)
        if not name.endswith(KEPT):
            self.seconds[stage.key] = round(took, 3)
        self.ended(words_for(name), took)

    def model_size(self, parameters: int) -> None:
        """Take the number of the model's parameters, from which the seconds of its stages are estimated."""
        self.forecast.model_size(parameters)

    def began(self, words: str) -> None:
        """Show that a stage begins."""

    def changed(self) -> None:
        """Show how far the current stage is."""

    def ended(self, words: str, seconds: float) -> None:
        """Show that a stage has ended."""

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self._start

    def fraction(self) -> float:
        """Part of the run that is done, 0 to 1."""
        stage = self._current()
        return self.forecast.fraction(*(stage.state() if stage else ()))

    def left(self) -> str:
        """The time left in words; empty if nothing is known about it."""
        stage = self._current()
        seconds = self.forecast.left(*(stage.state() if stage else ()))
        return "" if seconds is None else f"about {seconds_text(max(seconds, 1))} left"

    def now(self) -> str:
        """The current stage in words, with its steps; empty between stages."""
        stage = self._current()
        if stage is None:
            return ""
        steps = f", {stage.done} of {stage.total}" if stage.total else ""
        return words_for(stage.name) + steps

    def stage_seconds(self) -> float:
        """Seconds since the current stage began; 0 between stages."""
        stage = self._current()
        return stage.state()[0] if stage else 0.0

    def _current(self) -> _Stage | None:
        """The innermost stage; a copy is looked at, since other threads ask."""
        stages = tuple(self._stages)
        return stages[-1] if stages else None


class _Stage:
    def __init__(self, name: str, total: int | None, start: float, key: str) -> None:
        self.name, self.total, self.start, self.key = name, total, start, key
        self.done = 0

    def state(self) -> tuple[float, float | None]:
        """Seconds since it began, and the part that is done if steps say so."""
        inner = min(self.done / self.total, 1.0) if self.total and self.done else None
        return time.perf_counter() - self.start, inner


class Heartbeat:
    """Calls a function at intervals from a thread, until it is stopped.

    Args:
        beat: the function.
        every: seconds between two calls.
    """

    def __init__(self, beat: Callable[[], None], every: float) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(beat, every), daemon=True, name="progress")
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and wait for it."""
        self._stopped.set()
        self._thread.join()

    def _run(self, beat: Callable[[], None], every: float) -> None:
        while not self._stopped.wait(every):
            beat()
