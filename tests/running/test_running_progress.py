"""Stages as the library says them."""

from __future__ import annotations

import logging

import pytest

from lampq_onnx.running.progress import NO_PROGRESS, Clock


def test_stages_go_to_the_log_when_they_begin(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(NO_PROGRESS)
    with caplog.at_level(logging.INFO, logger="lampq_onnx"):
        with clock.stage("ranges", 8) as advance:
            assert caplog.messages == ["ranges (8 steps)"]
            advance(8)
        with clock.stage("iterative update"):
            pass
    assert caplog.messages == ["ranges (8 steps)", "iterative update"]
    assert set(clock.seconds) == {"ranges", "iterative_update"}


def test_the_log_is_silent_unless_it_is_asked(capfd: pytest.CaptureFixture[str]) -> None:
    with NO_PROGRESS.stage("ranges", 8) as advance:
        advance(8)
    assert capfd.readouterr() == ("", "")
