"""Times of stages that are kept between runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from lampq_onnx.disk.cache import FOLDER_VARIABLE
from lampq_onnx.disk.stage_times import MOST_RUNS, TIMES_FILE, earlier_times, remember_times


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_a_run_left_out_keeps_its_earlier_time(folder: Path) -> None:
    assert earlier_times("quantize digits") == {}
    remember_times("quantize digits", {"export": 2.0, "costs": 9.0})
    remember_times("quantize digits", {"export": 3.0})
    assert earlier_times("quantize digits") == {"export": 3.0, "costs": 9.0}
    assert earlier_times("quantize other") == {}


def test_the_oldest_runs_are_forgotten(folder: Path) -> None:
    for number in range(MOST_RUNS + 2):
        remember_times(f"run {number}", {"a": 1.0})
        remember_times("run 0", {"a": 1.0})  # is used all the time
    assert earlier_times("run 0")
    assert not earlier_times("run 1")
    assert earlier_times(f"run {MOST_RUNS + 1}")


@pytest.mark.parametrize("text", ["", "[1]", '{"quantize digits": 3}', '{"quantize digits": {"a": "x"}}'])
def test_a_damaged_file_is_replaced(folder: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    folder.mkdir()
    (folder / TIMES_FILE).write_text(text)
    assert earlier_times("quantize digits") == {}
    assert TIMES_FILE in caplog.text
    remember_times("quantize digits", {"a": 1.0})
    assert earlier_times("quantize digits") == {"a": 1.0}
