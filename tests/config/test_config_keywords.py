"""The typed keyword arguments of the Python API against the options that they stand for."""

from __future__ import annotations

import ast
import inspect
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

import lampq_onnx
from lampq_onnx.config import keywords
from lampq_onnx.config.doors import checked
from lampq_onnx.config.fields import Field
from lampq_onnx.config.lookup import by_flag
from lampq_onnx.config.sections import FIELDS, SECTIONS
from lampq_onnx.errors import UsageError
from tools import keywords as maker

OPTIONS = [field for field in FIELDS if field.same_as is None]


def test_the_file_is_the_one_that_the_fields_give() -> None:
    written = Path(str(keywords.__file__)).read_text(encoding="utf-8")
    assert ast.dump(ast.parse(written)) == ast.dump(ast.parse(maker.source())), "run: python tools/keywords.py"


def names_of(function: str) -> set[str]:
    """What a function takes, as options: its keywords, and the ones that its signature names."""
    own = {field.flag for field in OPTIONS} | {field.name for field in OPTIONS}
    named = set(inspect.signature(getattr(lampq_onnx, function)).parameters) & own
    return {by_flag(name).flag for name in named | set(keywords.TAKEN[function])}


def test_quantize_takes_every_option() -> None:
    assert names_of("quantize") == {field.flag for field in OPTIONS}


@pytest.mark.parametrize(
    ("function", "left_out"),
    [("sweep", {"budgets"}), ("analyze", {"budgets", "update"}), ("doctor", {"budgets", "update", "allocation"})],
)
def test_sections_that_a_function_has_nothing_of(function: str, left_out: set[str]) -> None:
    assert not {field.section for field in OPTIONS if field.flag in names_of(function)} & left_out


@pytest.mark.parametrize("function", keywords.TAKEN)
def test_no_keyword_is_named_twice(function: str) -> None:
    # A type checker refuses an argument that both the signature and the dictionary name.
    parameters = inspect.signature(getattr(lampq_onnx, function)).parameters
    assert not set(parameters) & keywords.TAKEN[function]
    assert parameters["options"].annotation == f"Unpack[{function.title()}Keywords]"


SAMPLES: dict[object, tuple[object, ...]] = {
    bool: (True, False),
    int: (2, 4, 8),
    float: (0.5, 4.0),
    str: ("2", "4MB", "20ms", "60G", "0.5", "cpu", "kl", "auto", "x", "224"),
    Path: (Path("there"),),
}


def values_of(hint: object) -> Iterator[object]:
    """A few values of a type, one after the other for each member of a union."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        for member in inner:
            yield from values_of(member)
    elif origin is typing.Literal:
        yield from inner
    elif origin is Sequence:
        yield from ([sample] for sample in SAMPLES[inner[0]])
    elif origin is Mapping:
        yield {"depth": 2}
    elif hint is not type(None):
        yield from SAMPLES[hint]


def members(hint: object) -> tuple[object, ...]:
    """The types of a union."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


HINTS = typing.get_type_hints(keywords.QuantizeKeywords)


@pytest.mark.parametrize("name", HINTS)
def test_every_type_is_one_that_the_option_takes(name: str) -> None:
    """Not read off the annotation: values of each type are given to the option itself."""
    field = by_flag(name)
    for member in members(HINTS[name]):
        if member is not type(None):
            assert any(taken(field, value) for value in values_of(member)), member


@pytest.mark.parametrize("name", HINTS)
def test_types_that_an_option_refuses_are_not_in_it(name: str) -> None:
    field = by_flag(name)
    held = members(HINTS[name])
    texts = any(m is str or typing.get_origin(m) is typing.Literal for m in held)
    words = Sequence[str] in held
    for kind, value in ((bool, True), (dict, {"depth": 2}), (list, ["x"] if words else [4.0]), (bytes, b"x")):
        accepted = taken(field, value)
        if kind is bool and not accepted:
            assert bool not in held
        if kind is dict:
            assert accepted == any(typing.get_origin(m) is Mapping for m in held)
        if kind is list:
            assert accepted == any(typing.get_origin(m) is Sequence for m in held)
    if not texts:
        assert not taken(field, "no such value")


def taken(field: Field, value: object) -> bool:
    """Whether the option takes a value."""
    try:
        checked(SECTIONS[field.section], field, value, field.flag)
    except UsageError:
        return False
    return True


def test_a_type_that_no_rule_knows_is_refused() -> None:
    assert maker.type_text(int | typing.Literal["mixed"] | None) == 'int | Literal["mixed"] | None'
    with pytest.raises(TypeError, match="no rule"):
        maker.type_text(bytes)
