"""The part of a run that is done, and the time left."""

from __future__ import annotations

import pytest

from lampq_onnx.running.forecast import ALMOST, PRIOR, Forecast


def test_parts_are_weighted_by_seconds() -> None:
    forecast = Forecast({"a": 10.0, "b": 30.0, "c": 60.0})
    assert forecast.fraction() == 0
    forecast.end(forecast.begin("a"), 10.0)
    assert forecast.fraction() == pytest.approx(0.1)
    key = forecast.begin("b")
    assert forecast.fraction(15.0, 0.5) == pytest.approx(0.25)
    assert forecast.left(15.0, 0.5) == pytest.approx(15 + 60)
    forecast.end(key, 30.0)
    assert forecast.fraction() == pytest.approx(0.4)
    assert forecast.left() == pytest.approx(60)


def test_a_slow_machine_shows_in_its_first_stages() -> None:
    forecast = Forecast({"load": 1.0, "a": 45.0, "b": 100.0}, fixed=frozenset({"load"}))
    forecast.end(forecast.begin("load"), 50.0)  # says nothing about the others
    assert forecast.left() == pytest.approx(145)
    forecast.end(forecast.begin("a"), 95.0)
    rate = (95 + PRIOR) / (45 + PRIOR)
    assert forecast.left() == pytest.approx(100 * rate)
    forecast.begin("b")
    assert forecast.left(50.0) == pytest.approx(100 * rate - 50)
    assert forecast.left(500.0) == 0


def test_stages_that_are_left_out_count_as_done() -> None:
    forecast = Forecast({"a": 10.0, "b": 40.0, "c": 50.0})
    forecast.begin("c")
    assert forecast.fraction(0.0, 0.0) == pytest.approx(0.5)


def test_stages_that_nobody_expected_hold_the_bar() -> None:
    forecast = Forecast({"a": 10.0, "b": 10.0})
    forecast.end(forecast.begin("a"), 10.0)
    key = forecast.begin("surprise")
    assert forecast.fraction(5.0, 0.5) == pytest.approx(0.5)
    assert forecast.left(5.0, 0.5) == pytest.approx(15)
    forecast.end(key, 10.0)
    assert forecast.fraction() == pytest.approx(0.5)


def test_it_never_falls_and_never_ends_early() -> None:
    forecast = Forecast({"a": 10.0})
    forecast.begin("a")
    assert forecast.fraction(1000.0) == pytest.approx(ALMOST)
    assert forecast.fraction(1000.0, 0.5) == pytest.approx(ALMOST)
    assert Forecast({}).fraction() == 0
    assert Forecast({}).left() is None


def test_calls_of_one_stage_are_told_apart() -> None:
    forecast = Forecast({"export": 10.0, "equalization": 10.0, "export#2": 20.0})
    assert forecast.begin("export") == "export"
    forecast.end("export", 10.0)
    assert forecast.begin("export") == "export#2"
    assert forecast.fraction(0.0, 0.0) == pytest.approx(0.5)


def test_the_size_of_the_model_scales_what_has_not_begun() -> None:
    forecast = Forecast({"load": 2.0, "a": 10.0}, fixed=frozenset({"load"}), parameters=100)
    forecast.end(forecast.begin("load"), 2.0)
    forecast.model_size(400)
    assert forecast.left() == pytest.approx(20)
    known = Forecast({"a": 10.0})
    known.model_size(400)
    assert known.left() == pytest.approx(10)
