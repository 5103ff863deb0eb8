"""How stages report progress, without knowing who listens."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

from lampq_onnx.running.memory import give_back

_log = logging.getLogger(__name__)

Advance = Callable[[int], None]


class ProgressSink(Protocol):
    """Receives stages; the command line draws them, the default ignores them."""

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """Start a stage of ``total`` steps (None: unknown); the block calls the value with the number of steps done.

        Args:
            name: what is done, for people.
            total: number of steps.
        """


@runtime_checkable
class SizedSink(Protocol):
    """A sink that wants to know the size of the model."""

    def model_size(self, parameters: int) -> None:
        """Take the number of parameters of the model, which is loaded now."""


class _NoProgress:
    """Draws nothing; stages are logged at level INFO when they begin."""

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        if total is None:
            _log.info("%s", name)
        else:
            _log.info("%s (%d steps)", name, total)
        yield lambda _: None


NO_PROGRESS: ProgressSink = _NoProgress()


class Clock:
    """A sink that passes stages on to another one and measures their time.

    Attributes:
        seconds: stage -> wall time so far.
    """

    def __init__(self, sink: ProgressSink) -> None:
        self._sink = sink
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Start a stage, see `ProgressSink`."""
        start = time.perf_counter()
        try:
            with self._sink.stage(name, total) as advance:
                yield advance
        finally:
            give_back()
            key = name.replace(" ", "_")
            self.seconds[key] = round(self.seconds.get(key, 0.0) + time.perf_counter() - start, 3)

    def model_size(self, parameters: int) -> None:
        """Pass the number of the model's parameters on, if the sink wants it."""
        if isinstance(self._sink, SizedSink):
            self._sink.model_size(parameters)
