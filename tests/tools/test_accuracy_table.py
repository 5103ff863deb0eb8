from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import lampq_onnx
from lampq_onnx.artifacts.report import (
    Accuracy,
    Baseline,
    Bits,
    Environment,
    Fidelity,
    Latency,
    Report,
    Size,
    TopK,
)
from lampq_onnx.errors import LampqError, UsageError
from tools.bench import accuracy

TOP = TopK(top1=0.5, top5=1.0)
MEASURED = Accuracy(
    **{"float": TOP}, samples=10, quantized=TOP, drop_points=0.5, standard_error_points=1.0, agreement=0.9,
    logit_sqnr_db=20.0, kl=0.01,
)  # fmt: skip
LATENCY = Latency(
    float_ms=2, quantized_ms=1, speedup=2, speedup_quartiles=(1.5, 2.5), threads=1, batch=1, runs=3,
    float_samples_ms=(2,), quantized_samples_ms=(1,),
)  # fmt: skip


def report(**_: Any) -> Report:
    return Report(
        model="tiny",
        preprocessing="none",
        accuracy=MEASURED,
        size=Size(float_bytes=4_000_000, quantized_bytes=1_000_000),
        bits=Bits(weight_average=3.9, weight_average_unweighted=4, weight_average_all=4, budget=4, covers=("qkv",)),
        latency=LATENCY,
        fidelity=Fidelity(layer_max=0, layer_worst=None, excess_error=0, simulation_excess=None, samples=1),
        baselines={"uniform": Baseline(weight_average=4, accuracy=MEASURED, quantized_bytes=1)},
        seconds={},
        environment=Environment(lampq_onnx="0", python="3", versions={}, cpu="x", cpu_flags=(), cores=1, target="t"),
        layers=(),
    )


def invoke(*arguments: str) -> Result:
    app = accuracy.typer.Typer()
    app.command()(accuracy.main)
    return CliRunner().invoke(app, arguments)


def test_settings_say_widths_and_images() -> None:
    same = accuracy.parse_setting("4/4 same")
    assert (same.bits, same.activation_bits, same.images) == (4.0, "same", None)
    made = accuracy.parse_setting("3.5/8-synthetic")
    assert (made.bits, made.activation_bits, made.images) == (3.5, 8, "synthetic")
    assert len([accuracy.parse_setting(part) for part in accuracy.SETTINGS.split(",")]) == 8
    for wrong in ("8", "4/8-same", "4/4-other", "a/b"):
        with pytest.raises(UsageError):
            accuracy.parse_setting(wrong)


def test_every_setting_and_effort_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def quantize(model: str, folder: Path, **words: Any) -> Report:
        asked.append(words)
        if words["bits"] == 3:
            raise LampqError("out of luck")
        return report()

    monkeypatch.setattr(lampq_onnx, "quantize", quantize, raising=False)
    done = invoke("digits", "--settings=8/8-noise,3/8,4/4-same", "--efforts=fast,best", "--baseline=uniform")
    assert done.exit_code == 1
    assert "2 of 6" in str(done.exception)
    lines = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [line[:2] for line in lines[1:]] == [
        [f"| {name}", effort] for name in ("8/8-noise", "3/8", "4/4-same") for effort in ("fast", "best")
    ]
    assert len(lines[0]) == len(lines[1]) == 11
    assert "0.50 ± 1.00" in lines[1]
    assert "failed: out of luck |" in lines[3]
    assert [words["calibration"] for words in asked] == ["noise", "noise", None, None, None, None]
    assert asked[-1]["activation_bits"] == "same"


def test_a_real_run_gives_finite_figures(tiny: list[str]) -> None:
    done = invoke(*tiny, "--settings=8/8", "--efforts=fast", "--latency-runs=2", "--baseline=uniform")
    assert done.exit_code == 0, done.exception
    heads, row = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in done.stdout.splitlines()
        if line.startswith("| ")
    )
    assert row[:2] == ["8/8", "fast"]
    assert 0 <= float(row[heads.index("KL")]) < 0.1
    assert float(row[heads.index("average bits")]) == 8
