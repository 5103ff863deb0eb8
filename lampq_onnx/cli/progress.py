"""Progress of a run on standard error: one live line on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lampq_onnx.running.forecast import Forecast
from lampq_onnx.running.overall import Heartbeat, Overall
from lampq_onnx.running.words import seconds_text

EVERY = 10.0
"""Seconds between two lines of a log."""

WORTH_A_LINE = 1.0
"""Seconds that a stage lasts at least to be named in a log without --verbose."""

NARROW = 60
"""Columns below which the line shows percent and times alone."""

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class TerminalProgress(Overall):
    """One line that is drawn again four times a second: bar, percent, stage, time left.

    Args:
        forecast: the expected stages.
        console: standard error.
        verbose: whether finished stages are listed above the line.
    """

    def __init__(self, forecast: Forecast, console: Console, *, verbose: bool = False) -> None:
        super().__init__(forecast)
        self._console = console
        self._verbose = verbose
        self._live: Live | None = None

    def began(self, words: str) -> None:  # noqa: ARG002 -- the line says it
        """Start drawing with the first stage."""
        if self._live is None:
            self._live = Live(
                console=self._console, get_renderable=self.line, transient=True, refresh_per_second=4,
                redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self._live.start()

    def ended(self, words: str, seconds: float) -> None:
        """List the stage above the line, if everything is listed."""
        if self._verbose:
            self._console.print(f"{seconds:8.1f} s  {words}", highlight=False, markup=False)

    def close(self) -> None:
        """Remove the line from the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def line(self) -> Table:
        """What is drawn now; it never takes more than one line."""
        done, left = self.fraction(), self.left()
        spinner = _FRAMES[int(self.elapsed * 8) % len(_FRAMES)]
        times = f"{_clock(self.elapsed)}, {left}" if left else _clock(self.elapsed)
        grid = Table.grid(padding=(0, 1), expand=True)
        cells: list[Text | ProgressBar] = [Text(f"{100 * done:.0f} %")]
        if self._console.width >= NARROW:
            cells = [Text(spinner, style="cyan"), ProgressBar(total=1.0, completed=done, width=16), *cells]
        for _ in cells:
            grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
        grid.add_column(no_wrap=True, justify="right")
        grid.add_row(*cells, self.now() if self._console.width >= NARROW else "", Text(times, style="dim"))
        return grid


class LogProgress(Overall):
    """Lines for logs: one every ten seconds, and one for each stage that took a second or more.

    Args:
        forecast: the expected stages.
        console: standard error.
        every: seconds between two lines.
        verbose: whether short stages are listed too.
    """

    def __init__(self, forecast: Forecast, console: Console, *, every: float = EVERY, verbose: bool = False) -> None:
        super().__init__(forecast)
        self._console = console
        self._every = every
        self._least = 0.0 if verbose else WORTH_A_LINE
        self._said = time.perf_counter()
        self._heart: Heartbeat | None = None

    def __enter__(self) -> Self:
        # Stages that take no steps are heard of as well.
        self._heart = Heartbeat(self.changed, self._every / 4)
        return self

    def changed(self) -> None:
        """Print a line if the last one is some time ago."""
        now = time.perf_counter()
        if now - self._said >= self._every and self.now():
            self._said = now
            left = self.left()
            since = f" ({seconds_text(self.stage_seconds())})"
            self._print(f"{self.now()}{since}{f'; {left}' if left else ''}")

    def ended(self, words: str, seconds: float) -> None:
        """Print a line for a stage, unless it was short."""
        if seconds >= self._least:
            self._said = time.perf_counter()
            self._print(f"{words}: done in {seconds:.1f} s")

    def close(self) -> None:
        """Stop the thread that prints lines."""
        if self._heart is not None:
            self._heart.stop()
            self._heart = None

    def _print(self, text: str) -> None:
        self._console.print(f"[{100 * self.fraction():3.0f} %] {text}", highlight=False, markup=False, soft_wrap=True)


def terminal_progress(forecast: Forecast | None = None, *, verbose: bool = False) -> Overall:
    """Progress for standard error, in the form that fits it.

    Args:
        forecast: the expected stages; None: not known, so that there is no time left to show.
        verbose: list every stage.
    """
    console = Console(stderr=True)
    known = forecast or Forecast({})
    if console.is_terminal and not console.is_dumb_terminal:
        return TerminalProgress(known, console, verbose=verbose)
    return LogProgress(known, console, verbose=verbose)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}" if seconds < 3600 else seconds_text(seconds)
