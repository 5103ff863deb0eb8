"""Budgets of size, latency and agreement through the whole line, on the embedded model."""

from __future__ import annotations

from pathlib import Path

import pytest

from lampq_onnx.artifacts import BitPlan, Report, Sensitivities
from lampq_onnx.cli.main import run
from lampq_onnx.config.recipe import Recipe
from tests.cli.conftest import QUICK, invoke


def call(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        run([str(word) for word in words])
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("budgets") / "out"
    words = (
        "--effort",
        "fast",
        "--rounding",
        "nearest",
        "--calibration-size",
        "16",
        "--latency-runs",
        "3",
        "--threads",
        "1",
        "--no-equalize",
        "--alpha-samples",
        "1",
    )
    budgets = ("--max-size", "170kB", "--min-agreement", "0.8", "--rounds", "1", "--candidates", "2,4,8")
    assert call("quantize", "digits", "-o", output, *words, *budgets) == 0
    return output


def test_the_file_keeps_its_size_and_is_as_large_as_promised(folder):
    plan = BitPlan.load(folder / "plan.json")
    size = (folder / "model.onnx").stat().st_size
    assert size <= 170_000
    assert size == pytest.approx(plan.promised_bytes, rel=0.03)
    assert plan.budget is None


def test_agreement_is_predicted_and_measured(folder):
    plan, report = BitPlan.load(folder / "plan.json"), Report.load(folder / "report.json")
    points = Sensitivities.load(folder / "sensitivity.json").agreement
    assert len(points) >= 3
    assert [p.cost for p in points] == sorted((p.cost for p in points), reverse=True)
    assert plan.promised_agreement is not None
    assert plan.promised_agreement >= 0.8
    assert report.accuracy.agreement > 0.6


def test_the_recipe_says_no_bits(folder):
    recipe = Recipe.load(folder / "recipe.toml")
    assert not recipe.bits_count
    assert recipe.budgets.max_size == "170kB"
    assert "\nbits" not in (folder / "recipe.toml").read_text()


def test_allocation_alone_keeps_a_measured_latency(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LAMPQ_ONNX_CACHE", str(tmp_path / "cache"))
    table = tmp_path / "latency.json"
    assert call("probe", folder / "float.onnx", "-o", table, "--rounds", "5") == 0
    allocate = (
        "allocate",
        folder / "sensitivity.json",
        "--latency",
        table,
        "--candidates",
        "2,4,8",
        "-o",
        tmp_path / "plan.json",
    )
    assert call(*allocate, "--max-latency", "1s", "--max-size", "250kB") == 0
    assert "MB of file" in capsys.readouterr().out
    plan = BitPlan.load(tmp_path / "plan.json")
    assert plan.promised_ms is not None
    assert plan.promised_ms < 1000
    assert call(*allocate, "--max-latency", "1us") == 2  # plan.json is there
    assert "plan.json exists already" in "".join(capsys.readouterr().err.split("\n"))
    assert call(*allocate, "--max-latency", "1us", "--overwrite") == 1
    assert "ms of latency cannot be met" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--target", "tensorrt"), "tensorrt has no kernel"),
        (("--target", "onnxruntime-qnn", "--candidates", "3,4,8"), "W4/A8"),
        (("--target", "openvino", "--packing", "native"), "does not read native"),
        (("--max-latency", "20ms"), "--max-latency needs measured times"),
        (("--max-size", "4 apples"), "cannot read '4 apples'"),
        (("--min-agreement", "0.9", "--metric", "lampq"), "--min-agreement needs costs in nats"),
    ],
)
def test_what_cannot_be_is_refused_before_work_starts(words, message, tmp_path, capsys):
    extra = ("--activation-bits", "4") if words[-1] == "tensorrt" else ()
    assert call("quantize", "digits", "-o", tmp_path / "out", *words, *extra) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (("--max-bops", "1"), "The smallest possible number is"),
        (("--max-bops", "0.001G", "--max-size", "170kB"), "The smallest possible number is"),
    ],
)
def test_bit_operations_below_the_smallest_number_are_refused_before_work(tmp_path, budget, message):
    answers = []
    for words in (("--dry-run",), ("--output", tmp_path / "out")):
        code, _, err = invoke("quantize", "digits", *QUICK, *budget, *words)
        said = err[err.index("error:") :]
        assert message in said
        assert "ranges" not in err
        answers.append((code, said))
    assert answers[0] == answers[1]
    assert answers[0][0] == 1
    assert not (tmp_path / "out").exists()
