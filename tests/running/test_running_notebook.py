"""The line of a notebook."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from lampq_onnx.running.forecast import Forecast
from lampq_onnx.running.notebook import NotebookProgress, in_notebook


class Handle:
    """A display that is drawn again."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def update(self, value: str) -> None:
        self.shown.append(value)


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Handle:
    found = Handle()
    display: Any = types.ModuleType("IPython.display")
    display.HTML = str
    display.display = lambda value, display_id: found
    shell = type("ZMQInteractiveShell", (), {})()
    kernel: Any = types.ModuleType("IPython")
    kernel.get_ipython = lambda: shell
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return found


def test_one_line_is_drawn_again(handle: Handle) -> None:
    assert in_notebook()
    with NotebookProgress(Forecast({"ranges": 1.0, "costs": 3.0})) as sink:
        with sink.stage("ranges", 4) as advance:
            for done in range(4):
                advance(done)
        with sink.stage("costs"):
            pass
    assert len(handle.shown) <= 8  # not once for each step
    assert "finding the range of each input" in handle.shown[0]
    assert any('value="0.250"' in line for line in handle.shown)
    assert handle.shown[-1] == "<small>lampq-onnx: 0 s</small>"


def test_elsewhere_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_notebook()
