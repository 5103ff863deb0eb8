"""Stages on the terminal: a live line there, plain lines elsewhere; always on standard error."""

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

from lampq_onnx.progress import Advance, ProgressSink


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
    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:  # noqa: ARG002 -- the protocol's names
        start = time.perf_counter()
        yield lambda _: None
        self._console.print(f"{name:22} {time.perf_counter() - start:6.1f} s", highlight=False)


def terminal_progress() -> ProgressSink:
    """The sink that fits standard error."""
    console = Console(stderr=True)
    return _Terminal(console) if console.is_terminal else _Plain(console)
