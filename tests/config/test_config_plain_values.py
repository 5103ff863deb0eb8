"""Constructor arguments: the same values from the command line, TOML and Python."""

from __future__ import annotations

import datetime
import math
import tomllib

import numpy as np
import pytest

from lampq_onnx.cli.parameters import arguments_of
from lampq_onnx.config.inputs import ModelOptions
from lampq_onnx.config.plain_values import parse_plain
from lampq_onnx.config.recipe import Recipe, template
from lampq_onnx.config.values import parse_values
from lampq_onnx.errors import UsageError

READ = {
    "32": 32,
    "-1": -1,
    "0.5": 0.5,
    "1e-3": 0.001,
    "32,64": (32, 64),
    "32, 64": (32, 64),
    "[32,64]": (32, 64),
    "(32,64)": (32, 64),
    " (32, 64) ": (32, 64),
    "[2,2,6,2]": (2, 2, 6, 2),
    "[[2,2],[6,[2]]]": ((2, 2), (6, (2,))),
    "((1,2),(3,4))": ((1, 2), (3, 4)),
    "(7,)": (7,),
    "[]": (),
    "true": True,
    "True": True,
    "FALSE": False,
    "[true,false]": (True, False),
    "(True,False)": (True, False),
    "none": None,
    "None": None,
    "null": None,
    "avg": "avg",
    "avg,max": "avg,max",
    "a,1": "a,1",
    "1x2": "1x2",
    "": "",
    "gelu_tanh": "gelu_tanh",
    "'32'": "32",
    '"none"': "none",
    '["a","b"]': ("a", "b"),
    "['a', 'b']": ("a", "b"),
    '{"a": [1, 2], "b": true}': {"a": (1, 2), "b": True},
    "{'a': (1, 2)}": {"a": (1, 2)},
    "/path/to/it": "/path/to/it",
    "1+2j": "1+2j",
    "...": "...",
}


@pytest.mark.parametrize("text", READ)
def test_words_of_the_command_line(text: str) -> None:
    value = parse_plain(text)
    assert value == READ[text]
    assert type(value) is type(READ[text])


@pytest.mark.parametrize(
    "text", ["[32,64", "(32;64)", "[a,b]", "{1,2}", "[" * 5000, "[[[[[[[[[[1]]]]]]]]]]", "[1,null]", "NaN", "1e999"]
)
def test_what_is_no_value_is_refused_with_the_argument_s_name(text: str) -> None:
    with pytest.raises(UsageError, match="--model-arg img_size: "):
        arguments_of([f"img_size={text}"])


def test_lists_are_the_same_from_everywhere() -> None:
    typed = arguments_of(["img_size=[32,64]", "depths=2,2", "class_token=false", "global_pool=avg", "drop_rate=none"])
    python = {
        "img_size": [np.int64(32), 64], "depths": (2, 2), "class_token": False, "global_pool": "avg", "drop_rate": None,
    }  # fmt: skip
    table = "img_size = [32, 64]\ndepths = [2, 2]\nclass_token = false\nglobal_pool = 'avg'"
    text = f"[model]\nname = 'm'\n[model.model_args]\n{table}"
    recipes = [Recipe.build({"model": {"name": "m", "model_args": values}}) for values in (typed, python)]
    recipes.append(Recipe.build(parse_values(text, "text")))
    assert recipes[0] == recipes[1] == recipes[2]
    assert recipes[0].model.model_args == {
        "img_size": (32, 64), "depths": (2, 2), "class_token": False, "global_pool": "avg",
    }  # fmt: skip
    assert len({recipe.to_toml() for recipe in recipes}) == 1
    assert Recipe.build(parse_values(recipes[0].to_toml(), "text")) == recipes[0]


def test_none_of_a_later_layer_takes_an_argument_back() -> None:
    layers = (
        {"model": {"name": "m", "model_args": {"depth": 2, "img_size": 32}}},
        {"model": {"model_args": {"depth": None}}},
    )
    assert Recipe.build(*layers).model.model_args == {"img_size": 32}


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, datetime.date(2020, 1, 2), {1: 2}, b"x", {1, 2}, [None], object(), np.zeros(2)]
)
def test_python_values_that_no_recipe_can_hold(value: object) -> None:
    with pytest.raises(UsageError, match=r"--model-arg .*: depths: takes"):
        Recipe.build({"model": {"name": "m", "model_args": {"depths": value}}})


def test_the_example_in_a_recipe_is_one_line_of_toml() -> None:
    line = next(line for line in template("m").splitlines() if line.startswith("# model_args = "))
    assert ModelOptions(name="m", **tomllib.loads(line[2:])).model_args == {"img_size": (32, 64), "patch_size": 4}
