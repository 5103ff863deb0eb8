"""What is shown while stages run: lines of a log, and the live line of a terminal."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from lampq_onnx.cli.progress import LogProgress, TerminalProgress
from lampq_onnx.running import overall
from lampq_onnx.running.forecast import Forecast
from lampq_onnx.running.words import WORDS, seconds_text, words_for


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as the only item."""
    now = [100.0]
    monkeypatch.setattr(overall.time, "perf_counter", lambda: now[0])
    return now


def lines(total: int | None, clock: list[float], steps: list[tuple[float, int]], *, verbose: bool = False) -> list[str]:
    """What is printed for a stage whose steps are done at the given seconds; it ends with the last one."""
    out = io.StringIO()
    clock[0] = 100.0
    sink = LogProgress(Forecast({"ranges": 20.0, "rounding": 20.0}), Console(file=out, width=60), verbose=verbose)
    with sink.stage("ranges", total) as advance:
        for seconds, done in steps:
            clock[0] = 100 + seconds
            advance(done)
    return out.getvalue().splitlines()


def test_very_short_stages_are_not_listed(clock: list[float]) -> None:
    assert lines(3, clock, [(0.2, 1), (0.5, 2), (0.9, 3)]) == []
    assert lines(3, clock, [(0.9, 3)], verbose=True) == ["[ 50 %] finding the range of each input: done in 0.9 s"]


def test_short_stages_are_one_line(clock: list[float]) -> None:
    assert lines(3, clock, [(1, 1), (2, 2), (9.9, 3)]) == ["[ 50 %] finding the range of each input: done in 9.9 s"]


def test_long_stages_say_how_far_they_are_and_how_long_the_run_takes(clock: list[float]) -> None:
    # 20 s were foreseen for each of two stages: the first takes 48, so the second is expected to take longer, too.
    assert lines(8, clock, [(6, 1), (12, 2), (18, 3), (24, 4), (48, 8)]) == [
        "[ 12 %] finding the range of each input, 2 of 8 (12 s); about 56 s left",
        "[ 25 %] finding the range of each input, 4 of 8 (24 s); about 44 s left",
        "[ 50 %] finding the range of each input, 8 of 8 (48 s); about 20 s left",
        "[ 50 %] finding the range of each input: done in 48.0 s",
    ]


def test_a_stage_without_steps_is_heard_of(clock: list[float]) -> None:
    out = io.StringIO()
    sink = LogProgress(Forecast({"equalization": 40.0}), Console(file=out, width=60))
    with sink.stage("equalization"):
        for seconds in (11, 22, 33, 44, 55):
            clock[0] = 100.0 + seconds
            sink.changed()  # what the thread does
        clock[0] = 160.0
    said = out.getvalue().splitlines()
    assert [line.partition("]")[0] for line in said] == ["[ 28 %", "[ 55 %", "[ 82 %", "[ 95 %", "[ 95 %", "[100 %"]
    assert said[0].endswith("equalizing input channels (11 s); about 29 s left")
    assert said[-1].endswith("done in 60.0 s")


def test_the_log_lives_on_while_nothing_advances() -> None:
    out, forecast = io.StringIO(), Forecast({"equalization": 1.0})
    with LogProgress(forecast, Console(file=out, width=60), every=0.02) as sink, sink.stage("equalization"):
        overall.threading.Event().wait(0.4)
    assert out.getvalue().count("equalizing input channels") >= 2


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_live_line_is_one_line(clock: list[float], width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TerminalProgress, "began", lambda *_: None)  # nothing is drawn from another thread
    out = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    sink = TerminalProgress(Forecast({"costs": 100.0, "rounding": 100.0}), out)
    with sink.stage("costs", 128) as advance:
        advance(32)
        clock[0] = 125.0
        with out.capture() as got:
            out.print(sink.line())
        sink.close()
    (line,) = got.get().splitlines()
    assert len(line.rstrip()) <= width
    assert "12 % " in line
    assert "0:25" in line
    if width >= 80:
        assert "about 3 min left" in line  # 75 s of this stage, 100 s of the next
        assert "measuring what each width" in line


def test_verbose_lists_stages_on_a_terminal(clock: list[float]) -> None:
    out = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with TerminalProgress(Forecast({}), out, verbose=True) as sink, sink.stage("alpha"):
        clock[0] = 103.0
    assert "     3.0 s  comparing the kinds of layers" in out.file.getvalue()  # type: ignore[attr-defined]


def test_times_of_stages_are_counted_by_call(clock: list[float]) -> None:
    sink = overall.Overall(Forecast({}))
    for name, seconds in (("export", 1.0), ("export", 2.0), ("costs (kept)", 4.0)):
        with sink.stage(name):
            clock[0] += seconds
    assert sink.seconds == {"export": 1.0, "export#2": 2.0}
    with pytest.raises(ValueError, match="stop"), sink.stage("ranges"):
        raise ValueError("stop")
    assert "ranges" not in sink.seconds  # it did not end
    assert sink.now() == ""


def test_words() -> None:
    assert words_for("costs (kept)") == "measuring what each width costs: kept from an earlier run"
    assert words_for("baseline uniform") == "comparing with uniform bits"
    assert words_for("kl 3 bits") == "kl 3 bits"
    assert max(map(len, WORDS.values())) <= 40
    assert [seconds_text(value) for value in (7.2, 89, 95, 3600, 7800)] == [
        "7 s",
        "89 s",
        "2 min",
        "60 min",
        "2 h 10 min",
    ]


def test_every_stage_of_the_package_has_words() -> None:
    from pathlib import Path

    import lampq_onnx

    texts = [path.read_text() for path in Path(lampq_onnx.__file__).parent.rglob("*.py")]
    named = {name for text in texts for name in re.findall(r'\.stage\(\s*"([^"{]+)"', text)}
    assert len(named) > 20
    assert named - WORDS.keys() == set()
