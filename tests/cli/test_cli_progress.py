"""What a log says while a stage runs."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from lampq_onnx.cli import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as the only item."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def lines(total: int | None, clock: list[float], steps: list[tuple[float, int]]) -> list[str]:
    """What is printed for a stage whose steps are done at the given seconds; it ends with the last one."""
    out = io.StringIO()
    sink = progress._Plain(Console(file=out, width=100), every=10)
    with sink.stage("ranges", total) as advance:
        for seconds, done in steps:
            clock[0] = 100 + seconds
            advance(done)
    return [re.sub(" +", " ", line) for line in out.getvalue().splitlines()]


def test_short_stages_are_one_line(clock: list[float]) -> None:
    assert lines(3, clock, [(1, 1), (2, 2), (9.9, 3)]) == ["ranges 9.9 s"]


def test_long_stages_say_how_far_they_are(clock: list[float]) -> None:
    said = lines(8, clock, [(6, 1), (12, 2), (18, 3), (24, 4), (48, 8)])
    assert said == [
        "ranges 12.0 s so far, 2 of 8, about 36 s left",
        "ranges 24.0 s so far, 4 of 8, about 24 s left",
        "ranges 48.0 s",
    ]


def test_stages_of_unknown_length(clock: list[float]) -> None:
    assert lines(None, clock, [(11, 0), (22, 5)]) == [
        "ranges 11.0 s so far, 0 done",
        "ranges 22.0 s so far, 5 done",
        "ranges 22.0 s",
    ]
