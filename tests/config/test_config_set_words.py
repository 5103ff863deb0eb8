"""`--set section.key=value`: every option, with the checks and messages of recipes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from lampq_onnx.config.fields import Field
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.sections import FIELDS
from lampq_onnx.config.set_words import set_values
from lampq_onnx.config.values import merge, parse_values
from lampq_onnx.errors import UsageError

OWN = [field for field in FIELDS if field.same_as is None]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("allocation.gamma=4", 4.0),
        ("allocation.bits = 3.5", 3.5),
        ("allocation.wide_price=inf", math.inf),
        ("allocation.fixed_bits=6", 6),
        ("allocation.candidates=2,4-6", (2, 4, 5, 6)),
        ("allocation.candidates=[2, 4]", (2, 4)),
        ("allocation.activation_bits=mixed", "mixed"),
        ("allocation.activation_bits=6", 6),
        ("analysis.equalize=false", False),
        ("analysis.equalize=on", True),
        ("analysis.effort=best", "best"),
        ("budgets.max_size=4MB", "4MB"),
        ("images.mean=0.5,0.25,0.5", (0.5, 0.25, 0.5)),
        ("images.mean=[0.5, 0.25]", (0.5, 0.25)),
        ("images.calibration=synthetic", "synthetic"),
        ("images.validation=a=b/c.npz", Path("a=b/c.npz")),
        ("model.checkpoint='with space.pt'", Path("with space.pt")),
        ("output.baselines=uniform, lampq", ("uniform", "lampq")),
        ('output.baselines=["uniform"]', ("uniform",)),
        ("output.threads=2", 2),
        ("model.model_args.img_size=32,64", {"img_size": (32, 64)}),
        ("model.model_args.act=gelu", {"act": "gelu"}),
        ("model.model_args={ depth = 2, flags = [true] }", {"depth": 2, "flags": (True,)}),
    ],
)
def test_values_of_every_type(word: str, value: object) -> None:
    section, key = word.split("=", maxsplit=1)[0].strip().split(".")[:2]
    found = set_values([word])
    assert found == {section: {key: value}}
    assert type(found[section][key]) is type(value)
    recipe = Recipe.build(merge({"model": {"name": "digits"}}, found))
    assert getattr(getattr(recipe, section), key) == value


def test_several_are_one_and_the_last_wins() -> None:
    words = ["allocation.gamma=2", "model.model_args.depth=2", "allocation.gamma=3", "model.model_args.embed_dim=64"]
    assert set_values(words) == {
        "allocation": {"gamma": 3.0},
        "model": {"model_args": {"depth": 2, "embed_dim": 64}},
    }
    assert set_values([]) == {}


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "allocation.gama=4",
            r"--set allocation.gama: unknown key 'gama' in \[allocation\].*--set allocation.gamma=VALUE",
        ),
        ("alocation.gamma=4", r"unknown section 'alocation'.*--set allocation.gamma=VALUE"),
        ("alocation.zzz=4", r"unknown section 'alocation'.*--set allocation.KEY=VALUE"),
        ("images.bits=4", r"unknown key 'bits' in \[images\].*--set allocation.bits=VALUE"),
        ("rounding.effort=best", r"unknown key 'effort'.*--set analysis.effort=VALUE"),
        ("output.baseline=kl", r"unknown key 'baseline'.*--set output.baselines=VALUE"),
        ("model.zzzzqqq=1", r"unknown key 'zzzzqqq'.*known here: name, checkpoint"),
        ("zzzzqqq.zzzzqqq=1", r"unknown section 'zzzzqqq'.*sections: model, images"),
        ("gamma=4", r"--set takes SECTION.KEY=VALUE, not 'gamma=4'"),
        ("allocation.gamma", r"--set takes SECTION.KEY=VALUE, not 'allocation.gamma'"),
        ("", "--set takes SECTION.KEY=VALUE, not ''"),
        ("allocation.gamma=", "--set allocation.gamma: the value is empty"),
        ("allocation.gamma=x", "--set allocation.gamma: must be a number above 1 and at most 1024, not 'x'"),
        ("allocation.gamma=1", "--set allocation.gamma: must be above 1 and at most 1024, not '1'"),
        ("allocation.gamma.x=1", r"--set allocation.gamma.x: gamma in \[allocation\] has no keys of its own"),
        ("allocation.metric=magic", "--set allocation.metric: must be a metric"),
        ("allocation.candidates=[2,", r"--set allocation.candidates: '\[2,' is not valid TOML"),
        ("analysis.equalize=perhaps", "--set analysis.equalize: must be true or false"),
        ("analysis.effort=most", "--set analysis.effort: must be fast, balanced, best or max, not 'most'"),
        ("output.baselines=uniform,magic", "--set output.baselines: number 2: must be a metric"),
        ("model.model_args=4", "--set model.model_args: takes arguments by name"),
        ("model.model_args.x=[1", r"--set model.model_args.x: \[1 starts like a list"),
        ("output.target=tpu", "--set output.target: unknown target 'tpu'"),
        ("budgets.max_size=4", "--set budgets.max_size: "),
    ],
)
def test_what_is_refused_and_what_is_near(word: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){said}") as caught:
        set_values([word])
    assert caught.value.exit_code == 2


def outcome(read: Callable[[str], object], text: str, name: str) -> str:
    """What is said of a value after the name that it was given under."""
    try:
        read(text)
    except UsageError as error:
        return error.message.removeprefix(name)
    return "taken"


@pytest.mark.parametrize("field", [f for f in OWN if not isinstance(f.default, dict)], ids=lambda field: field.flag)
def test_the_same_values_as_in_a_recipe(field: Field) -> None:
    """They are taken or refused with the same words."""
    place = f"{field.section}.{field.name}"

    def set_word(text: str) -> object:
        return set_values([f"{place}={text}"])

    def in_recipe(text: str) -> object:
        return parse_values(f"[{field.section}]\n{field.name} = {text}\n", "r.toml")

    for text in ("'-1'", "'abc'", "'nan'", "'3'", "'0.5'", "''", "[1, 2]", "['a']"):
        found = outcome(set_word, text, f"--set {place}")
        assert found == outcome(in_recipe, text, f"r.toml: {field.name} in [{field.section}]"), text
