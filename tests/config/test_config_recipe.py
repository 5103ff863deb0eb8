"""Options as one value: TOML, overrides, unknown keys, and the command line made from the same fields."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lampq_onnx.cli.main import program
from lampq_onnx.config.recipe import Recipe, template
from lampq_onnx.config.sections import FIELDS, SECTIONS
from lampq_onnx.config.values import by_name, parse_values
from lampq_onnx.errors import LampqError, UsageError

DIGITS = {"model": {"name": "digits"}}


def test_every_option_is_on_the_command_line_and_unique() -> None:
    flags = [field.flag for field in FIELDS if field.same_as is None]
    assert len(flags) == len(set(flags))
    words = {word for parameter in program().commands["quantize"].params for word in parameter.opts}
    assert {field.dashed for field in FIELDS if field.same_as is None and field.flag != "model"} <= words
    assert all(field.help for field in FIELDS if field.same_as is None)


def test_defaults_are_those_of_the_models() -> None:
    recipe = Recipe.build(DIGITS)
    for name, kind in SECTIONS.items():
        if name != "model":
            assert getattr(recipe, name) == kind()


def test_followers_take_the_value_they_follow() -> None:
    recipe = Recipe.build(DIGITS, {"allocation": {"bits": 3, "candidates": "2,4-6"}, "analysis": {"effort": "fast"}})
    assert recipe.analysis.weight_bits == 3.0
    assert recipe.analysis.candidates == recipe.allocation.candidates == (2, 4, 5, 6)
    assert recipe.rounding.effort == "fast"
    with pytest.raises(UsageError, match=r"allocation\.bits"):
        Recipe.build(DIGITS, {"analysis": {"weight_bits": 3}})
    with pytest.raises(ValueError, match="has to equal"):
        Recipe(model=recipe.model, allocation=recipe.allocation)


@given(
    bits=st.floats(1, 8),
    price=st.one_of(st.floats(1e-6, 1e6), st.just(math.inf)),
    mean=st.none() | st.lists(st.floats(-2, 2), min_size=1, max_size=3),
    calibration=st.sampled_from(["synthetic", "./synthetic", "a b/c.npz", None]),
    arguments=st.dictionaries(
        st.from_regex(r"[a-z_]{1,8}", fullmatch=True),
        st.recursive(
            st.integers() | st.booleans() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
            max_leaves=5,
        ),
    ),
)
def test_toml_gives_the_same_recipe_back(
    bits: float, price: float, mean: list[float] | None, calibration: str | None, arguments: dict[str, object]
) -> None:
    recipe = Recipe.build(
        {"model": {"name": "digits", "model_args": arguments}},
        {"allocation": {"bits": bits, "wide_price": price}, "images": {"mean": mean, "calibration": calibration}},
        {"output": {"baselines": ["uniform"]}},
    )
    text = recipe.to_toml()
    assert Recipe.build(parse_values(text, "text")) == recipe
    assert "weight_bits" not in tomllib.loads(text)["analysis"]


def test_a_folder_with_the_name_of_a_word_stays_a_folder() -> None:
    recipe = Recipe.build(DIGITS, {"images": {"calibration": "./noise"}})
    assert recipe.images.calibration == Path("noise")
    assert isinstance(recipe.images.calibration, Path)
    assert recipe.values()["images"]["calibration"] == "./noise"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[images]\ncalibraton = 'x'", "did you mean calibration?"),
        ("[imges]\nseed = 1", r"did you mean \[images\]"),
        ("bits = 3", r"did you mean bits in \[allocation\]"),
        ("[images]\nbits = 3", r"did you mean bits in \[allocation\]"),
        ("[rounding]\neffort = 'best'", r"did you mean effort in \[analysis\]"),
        ("[model]\nzzzzqqq = 1", "known here: name, checkpoint"),
        ("model = 'digits'", r"\[model\]"),
        ("[model", "not valid TOML"),
    ],
)
def test_what_is_no_recipe_is_refused_with_the_nearest_key(text: str, said: str) -> None:
    with pytest.raises(LampqError, match=said) as caught:
        parse_values(text, "r.toml")
    assert "r.toml" in str(caught.value)


def test_values_are_checked_with_their_names() -> None:
    with pytest.raises(UsageError, match=r"--rounding \(method in \[rounding\]\)"):
        Recipe.build(DIGITS, {"rounding": {"method": "floor"}})
    with pytest.raises(UsageError, match="no model is named"):
        Recipe.build({"allocation": {"bits": 3}})


def test_options_by_name() -> None:
    assert by_name({"bits": 3, "seed": None, "latency_runs": 5, "baselines": ("uniform",)}) == {
        "allocation": {"bits": 3},
        "output": {"latency_runs": 5, "baselines": ("uniform",)},
    }
    with pytest.raises(UsageError, match="did you mean latency_runs"):
        by_name({"latency_run": 5})


OPTIONAL = [line for line in template("vit_tiny_patch16_224").splitlines() if re.match(r"# \w+ = ", line)]


def test_options_without_a_default_have_an_example() -> None:
    shown = {line.split()[1] for line in OPTIONAL}
    assert shown == {field.name for field in FIELDS if field.same_as is None and field.default in (None, {})} - {"name"}


@pytest.mark.parametrize("line", OPTIONAL, ids=lambda line: line.split()[1])
def test_examples_in_a_recipe_can_be_used_as_they_stand(line: str) -> None:
    key = line.split()[1]
    text = template("vit_tiny_patch16_224").replace(line, line.removeprefix("# "))
    recipe = Recipe.build(parse_values(text, "recipe.toml"))
    (field,) = (field for field in FIELDS if field.name == key and field.same_as is None)
    assert getattr(getattr(recipe, field.section), key) not in (None, {})


@pytest.mark.parametrize(
    ("table", "key"), [("output", "threads"), ("allocation", "bits"), ("images", "mean"), ("update", "rounds")]
)
def test_truth_values_are_no_numbers(table, key):
    with pytest.raises(UsageError, match=rf"{key} in \[{table}\]\): must not be true"):
        Recipe.build({"model": {"name": "digits"}, table: {key: [True] * 3 if key == "mean" else True}})
    assert Recipe.build({"model": {"name": "digits"}, "analysis": {"equalize": False}}).analysis.equalize is False
