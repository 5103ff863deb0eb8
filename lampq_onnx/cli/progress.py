"""Progress of the stages on standard error: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lampq_onnx.running.progress import Advance, ProgressSink

EVERY = 10.0
"""Seconds between two lines of a stage, where there is no terminal."""


class _Terminal:
    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        columns = (
            TextColumn("{task.description:22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(name, total=total)
            start = time.perf_counter()
            yield lambda done: bar.update(task, completed=done)
        self._console.print(f"{name:22} {time.perf_counter() - start:6.1f} s", highlight=False)


class _Plain:
    def __init__(self, console: Console, every: float = EVERY) -> None:
        self._console = console
        self._every = every

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        start = said = time.perf_counter()

        def advance(done: int) -> None:
            nonlocal said
            now = time.perf_counter()
            if now - said >= self._every and done != total:
                said = now
                self._say(name, now - start, _state(done, total, now - start))

        yield advance
        self._say(name, time.perf_counter() - start)

    def _say(self, name: str, seconds: float, more: str = "") -> None:
        self._console.print(f"{name:22} {seconds:6.1f} s{more}", highlight=False)


def _state(done: int, total: int | None, seconds: float) -> str:
    """Words for the steps so far, and the seconds left if the other steps take as long."""
    if total is None:
        return f" so far, {done} done"
    left = f", about {seconds * (total - done) / done:.0f} s left" if done else ""
    return f" so far, {done} of {total}{left}"


def terminal_progress() -> ProgressSink:
    """Progress for standard error, in the form that fits it."""
    console = Console(stderr=True)
    return _Terminal(console) if console.is_terminal else _Plain(console)
