"""`allocate` on the command line."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

import lampq_onnx
from lampq_onnx.artifacts import BitPlan, Sensitivities
from lampq_onnx.cli.main import run
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.values import section
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.workflow.requests import check_recipe


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
    layers = tuple(
        layer.model_copy(update={"activation_cost": cost, "activation_elements": 50 * layer.shape[1]})
        for layer in sensitivities.layers
    )
    sensitivities.model_copy(update={"layers": layers}).save(tmp_path / "sensitivity.json")
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


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), {}),
        (("--metric", "lampq", "--bits", "3"), {"metric": "lampq", "bits": 3}),
        (("--max-size", "250kB", "--candidates", "2,4"), {"max_size": "250kB", "candidates": (2, 4)}),
        (("--target", "onnxruntime-qnn", "--candidates", "4,8"), {"target": "onnxruntime-qnn", "candidates": "4,8"}),
    ],
)
def test_python_gives_the_plan_of_the_command(files, words, named):
    source, target = files
    sensitivities = Sensitivities.load(source).model_copy(update={"float_bytes": 700_000})
    sensitivities.save(source)
    code, err = invoke("allocate", source, "-o", target, *words)
    assert code == 0, err
    plan = BitPlan.load(target)
    assert plan == lampq_onnx.allocate(sensitivities, **named)
    assert plan.metric == named.get("metric", "kl")


def test_python_takes_no_options_of_other_stages(files):
    with pytest.raises(UsageError, match="the option 'effort' is not for allocate"):
        lampq_onnx.allocate(Sensitivities.load(files[0]), effort="fast")
    with pytest.raises(UsageError, match=r"gamma: must be above 1 and at most 1024"):
        lampq_onnx.allocate(Sensitivities.load(files[0]), gamma=1)


def test_the_average_is_not_asked_for_where_another_budget_is():
    """4 bits are the default of a run with no other budget, and no reason to refuse larger candidates."""
    wide = {"model": {"name": "digits"}, "allocation": {"candidates": "6,8"}}
    with pytest.raises(LampqError, match="average of 4 bits cannot be met: the smallest candidate is 6"):
        check_recipe(Recipe.build(wide))
    check_recipe(Recipe.build(wide, {"budgets": {"max_size": "1MB"}}))
    with pytest.raises(LampqError, match="average of 5 bits"):
        check_recipe(Recipe.build(wide, {"budgets": {"max_size": "1MB"}, "allocation": {"bits": 5}}))
