"""Progress in notebooks: one line below the cell, drawn again in place."""

from __future__ import annotations

import html
import importlib
import sys
import time
from typing import Any

from lampq_onnx.running.forecast import Forecast
from lampq_onnx.running.overall import Overall
from lampq_onnx.running.words import seconds_text

EVERY = 0.5
"""Seconds between two drawings."""


def in_notebook() -> bool:
    """Whether this code runs in the kernel of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ == "ZMQInteractiveShell"


class NotebookProgress(Overall):
    """One line of HTML with a bar.

    Args:
        forecast: the expected stages.
    """

    def __init__(self, forecast: Forecast) -> None:
        super().__init__(forecast)
        display: Any = importlib.import_module("IPython.display")
        self._html = display.HTML
        self._line = display.display(self._html(""), display_id=True)
        self._drawn = 0.0

    def began(self, words: str) -> None:  # noqa: ARG002 -- the line says it
        """Draw the new stage."""
        self._draw()

    def changed(self) -> None:
        """Draw the line again, not too often."""
        if time.perf_counter() - self._drawn >= EVERY:
            self._draw()

    def close(self) -> None:
        """Leave one line that says how long it took."""
        self._line.update(self._html(f"<small>lampq-onnx: {seconds_text(self.elapsed)}</small>"))

    def _draw(self) -> None:
        self._drawn = time.perf_counter()
        done, left = self.fraction(), self.left()
        text = html.escape(f"{100 * done:.0f} % {self.now()}{f'; {left}' if left else ''}")
        self._line.update(self._html(f'<progress value="{done:.3f}" max="1"></progress> <small>{text}</small>'))
