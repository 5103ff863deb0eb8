"""What a model costs is the same however busy the machine is."""

from __future__ import annotations

import time

import pytest
import torch

from lampq_onnx.frontend import load


def test_the_least_of_several_times_counts() -> None:
    seconds = iter([0.0, 5.0, 10.0, 12.0, 20.0, 29.0])
    assert load._least_seconds(lambda: None, lambda: next(seconds)) == 2.0


def test_waiting_is_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    start = load._working_seconds()
    time.sleep(0.3)
    assert load._working_seconds() - start < 0.1
    monkeypatch.setattr(time, "process_time", lambda: 6.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert load._working_seconds() == 2.0
