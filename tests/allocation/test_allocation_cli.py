"""`allocate` on the command line."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

from lampq_onnx.artifacts import BitPlan
from lampq_onnx.cli.main import run
from lampq_onnx.config.recipe import section
from lampq_onnx.errors import UsageError


def invoke(*words: str | Path) -> tuple[int, str]:
    """Exit code and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as caught:
        run([str(word) for word in words])
    return int(caught.value.code or 0), err.getvalue()


@pytest.fixture
def files(make_sensitivities, tmp_path) -> tuple[Path, Path]:
    """sensitivity.json with measured inputs, and where the plan goes."""
    sensitivities = make_sensitivities()
    cost = {bits: 4.0**-bits for bits in (2, 3, 4, 5, 6, 7, 8, 16)} | {8: 0.05}
    units = tuple(
        unit.model_copy(update={"activation_cost": cost, "activation_elements": 50 * unit.shape[1]})
        for unit in sensitivities.units
    )
    sensitivities.model_copy(update={"units": units}).save(tmp_path / "sensitivity.json")
    return tmp_path / "sensitivity.json", tmp_path / "plan.json"


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        ((), {16}),
        (("--wide-price", "inf"), {8}),
        (("--activation-bits", "6"), {6}),
        (("--activation-bits", "mixed", "--activation-budget", "5", "--activation-candidates", "4,6"), {4, 6}),
        (("--activation-bits", "same", "--candidates", "4"), {4}),
    ],
)
def test_input_widths(files, options, widths):
    source, target = files
    code, err = invoke("allocate", source, "--bits", "4", "-o", target, *options)
    assert code == 0, err
    plan = BitPlan.load(target)
    assert {layer.activation_bits for layer in plan.layers.values() if not layer.fixed} == widths
    assert plan.activation_budget == (5 if "mixed" in options else None)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--activation-bits", "wide"), 2, "--activation-bits: must be 2, 3, 4"),
        (("--activation-bits", "mixed", "--activation-budget", "3"), 1, "3 activation bits cannot be met"),
        (("--activation-bits", "mixed", "--activation-candidates", "9"), 2, "candidate widths of activations"),
        (("--wide-price", "0"), 2, "--wide-price: must be above 0"),
    ],
)
def test_wrong_usage(files, options, code, message):
    source, target = files
    found, err = invoke("allocate", source, "-o", target, *options)
    assert found == code
    assert message in " ".join(err.split())
    assert not target.exists()


def test_widths_and_words():
    found = [section("allocation", {"allocation": {"activation_bits": text}}) for text in ("8", "mixed", "same")]
    assert [options.activation_bits for options in found] == [8, "mixed", "same"]
    with pytest.raises(UsageError, match=r"--activation-bits .* not 'eight'"):
        section("allocation", {"allocation": {"activation_bits": "eight"}})
