"""Every option with wrong values, from the command line, a recipe and Python: one message that names what was typed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lampq_onnx
from lampq_onnx.config.fields import Field
from lampq_onnx.config.sections import FIELDS
from lampq_onnx.errors import UsageError
from tests.cli.conftest import invoke

OWN = tuple(field for field in FIELDS if field.same_as is None)
"""All options; a new one is among them."""

PYDANTIC = re.compile(
    r"Input should|unable to parse|Field required|Extra inputs|validation error|type=|Value error|more$"
)

TEXTS = ("", "   ", "abc def", "nan", "-1", "1e400", "9" * 40, "a\0b")
OBJECTS = (object(), [object()], {"a": object()}, float("nan"), -1, 10**40, "", b"x")

FREE_TEXT = {"name", "checkpoint", "checkpoint_key", "calibration", "validation", "latency", "model_args", "outputs"}
"""Names and paths: any text can be one, and only what no file can be called is refused here."""

MEANT = {
    ("mean", "-1"),
    ("wide_price", "1e400"),
    ("mean", "9" * 40),
    ("std", "9" * 40),
    ("wide_price", "9" * 40),
    ("gamma", ""),
}
"""Odd values that mean something."""


def wrong_texts(field: Field) -> Iterator[str]:
    for text in TEXTS:
        if field.name in FREE_TEXT and text.strip() and "\0" not in text:
            continue
        if (field.name, text) not in MEANT and field.kind is not bool:
            yield text


def assert_said(message: str, name: str) -> None:
    assert message.startswith(name), message
    assert not PYDANTIC.search(message), message
    assert "Traceback" not in message
    assert len(message) < 600, message


@pytest.mark.parametrize("field", [f for f in OWN if f.flag != "model" and f.kind is not bool], ids=lambda f: f.flag)
def test_on_the_command_line(field: Field, tmp_path: Path) -> None:
    tried = 0
    for text in wrong_texts(field):
        if "\0" in text:
            continue  # no shell passes it on
        code, out, err = invoke("quantize", "digits", field.dashed, text, "-o", tmp_path / "out")
        said = " ".join(err.split())
        assert (code, err.count("error:")) == (2, 1), (text, out, err)
        assert_said(said.removeprefix("error: "), field.dashed)
        assert not (tmp_path / "out").exists()
        tried += 1
    assert tried >= (2 if field.name in FREE_TEXT else 4)


@pytest.mark.parametrize("field", OWN, ids=lambda f: f.flag)
def test_in_a_recipe(field: Field, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    values = ["''", "nan", "1979-05-27", "[[1]]", "{ a = [{}] }", '"\\u0000"', "-1", "9" * 18]
    refused = 0
    for value in values:
        recipe.write_text(f"[{field.section}]\n{field.name} = {value}\n")
        code, _, err = invoke("quantize", "digits", "--recipe", recipe, "--dry-run")
        if code == 0:
            assert value in ("-1", "9" * 18, "nan"), (field.name, value)  # numbers that the option can have
            continue
        said = " ".join(err.split())
        assert (code, err.count("error:")) == (2, 1), (value, err)
        assert_said(said.removeprefix("error: "), f"{recipe}: {field.name} in [{field.section}]")
        refused += 1
        if refused == 4:
            break
    assert refused == 4


@pytest.mark.parametrize("field", [f for f in OWN if f.flag != "model"], ids=lambda f: f.flag)
def test_in_python(field: Field, tmp_path: Path) -> None:
    refused = 0
    for value in OBJECTS:
        given: dict[str, Any] = {field.flag: value}
        if field.flag in ("calibration", "validation"):
            given = {field.flag: ""} if value != "" else {field.flag: "a\0"}
        if (field.name, value) == ("wide_price", 10**40) or (field.name, value) == ("mean", 10**40):
            continue
        if (field.kind is bool and value in (-1, "")) or (field.name in FREE_TEXT and isinstance(value, bytes)):
            continue
        with pytest.raises(UsageError) as caught:
            lampq_onnx.quantize("digits", tmp_path / "out", **given)
        assert_said(caught.value.message, field.flag)
        refused += 1
    assert refused >= 4
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "a/b.pth", "best.pt", "last.ckpt", "pytorch_model.bin", "x.pth.tar"]
)
def test_a_checkpoint_in_the_place_of_a_model(name: str, tmp_path: Path) -> None:
    there = tmp_path / name
    there.parent.mkdir(exist_ok=True)
    there.write_bytes(b"x")
    for path in (there, Path(name)):
        code, _, err = invoke("quantize", path, "-o", tmp_path / "out")
        assert code == 2
        assert "is a file of weights" in " ".join(err.split())
        assert f"quantize TIMM_NAME --checkpoint {path}" in err.replace("\n", "")


def test_the_mirrored_option_is_named() -> None:
    code, _, err = invoke("quantize", "digits", "--bits", "400", "-o", "out")
    assert code == 2
    assert err.strip() == "error: --bits: must be from 1 to 8, not '400'"
    with pytest.raises(UsageError, match=r"^bits: must be from 1 to 8, not 400$"):
        lampq_onnx.quantize("digits", "out", bits=400)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("sweep", "digits", "-o", "s", "--bits", "9"), "--bits"),
        (("sweep", "digits", "-o", "s", "--bits", ""), "--bits"),
        (("sweep", "digits", "-o", "s", "--metrics", "magic"), "--metrics"),
        (("sweep", "digits", "-o", "s", "--pick", "best"), "--pick"),
        (("package", ".", "--format", "zip"), "--format"),
        (("probe", "f.onnx", "--rounds", "1"), "--rounds"),
        (("probe", "f.onnx", "--rounds", "some"), "--rounds"),
        (("explain", "f.onnx", "--batch", "1.5"), "--batch"),
        (("explain", "f.onnx", "--runs", ""), "--runs"),
        (("probe", "f.onnx", "--latency-threads", "0"), "--latency-threads"),
        (("explain", "f.onnx", "--threads", "0"), "--threads"),
        (("validate", "m.onnx", "--max-drop", "nan"), "--max-drop"),
        (("validate", "m.onnx", "--min-agreement", "nan"), "--min-agreement"),
        (("validate", "m.onnx", "--min-agreement", "2"), "--min-agreement"),
        (("allocate", "s.json", "--max-size", "4"), "--max-size"),
        (("convert", "f.onnx", "--plan", "p.json", "--packing", "zip"), "--packing"),
        (("analyze", "digits", "--alpha-bits", "9"), "--alpha-bits"),
        (("doctor", "digits", "--crop", "2"), "--crop"),
        (("init", "--model", ""), "--model"),
        (("reproduce", "m.onnx", "--device", "abacus"), "--device"),
        (("schema", "zip"), "artifact"),
    ],
)  # fmt: skip
def test_options_of_the_other_commands(words: tuple[str, ...], name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = invoke(*words)
    assert code == 2, err
    assert name in err
    assert not PYDANTIC.search(err)
    assert "Traceback" not in out + err
    assert not list(tmp_path.iterdir())
