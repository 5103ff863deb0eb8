"""Every command and every Python name that a page shows exists, with its options and arguments."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import typer

import lampq_onnx
from lampq_onnx.cli.main import program
from lampq_onnx.config.lookup import by_flag
from lampq_onnx.config.sections import SECTIONS
from lampq_onnx.config.values import parse_values
from lampq_onnx.errors import UsageError
from tests.documents.blocks import PAGES, REPOSITORY, Block, blocks_of, page_blocks, without_blocks

COMMAND = re.compile(r"(?:^|(?<=\s))(?:lampq-onnx|-m lampq_onnx) +([^\n]*)", re.MULTILINE)
INLINE = re.compile(r"`((?:lampq-onnx |torchrun )[^`]+)`")


def commands_of(text: str) -> Iterator[tuple[list[str], bool]]:
    """The words behind `lampq-onnx`, and whether the line has to be complete: names within sentences need not be."""
    for block in blocks_of(text, "page"):
        for found in COMMAND.findall(block.text.replace("\\\n", " ")):
            yield _words(found), True
    for found in INLINE.findall(without_blocks(text)):
        for words in COMMAND.findall(" ".join(found.split())):
            yield _words(words), False


def _words(line: str) -> list[str]:
    """Words of a command line up to its end, without marks of what was left out."""
    words = shlex.split(line, comments=True)
    ends = [number for number, word in enumerate(words) if word in (">>", ">", "|", "&&", ";")]
    words = words[: ends[0]] if ends else words
    return [word for number, word in enumerate(words) if not word.endswith("...") or words[number - 1].startswith("--")]


OWN_OPTIONS = ("--version", "--help", "--install-completion", "--show-completion")
"""Options of `lampq-onnx` itself, which are typed without a command."""


def problem_of(words: list[str], *, complete: bool) -> str:
    """Why a command line cannot be typed like this; empty: it can."""
    commands = _commands()
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in OWN_OPTIONS:
        return ""
    if words[0] not in commands:
        return f"no command {words[0]}"
    try:
        commands[words[0]].make_context(words[0], words[1:])
    except typer.Exit:
        return ""
    except Exception as error:
        if not hasattr(error, "format_message"):  # Typer brings its own copy of click, whose classes are not public
            raise
        missing = type(error).__name__ == "MissingParameter"
        return "" if missing and not complete else str(error.format_message())
    return ""


def _commands() -> dict[str, Any]:
    group: Any = program()
    return dict(group.commands)


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_their_options_exist(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    wrong = {
        " ".join(words): problem
        for words, complete in commands_of(text)
        if (problem := problem_of(words, complete=complete))
    }
    assert not wrong


def test_enough_commands_are_found() -> None:
    found = [words for page in PAGES for words, _ in commands_of((REPOSITORY / page).read_text(encoding="utf-8"))]
    assert {words[0] for words in found if words} >= set(_commands())


def test_wrong_commands_are_told_from_right_ones() -> None:
    text = """
Type `lampq-onnx probe`, `lampq-onnx prob` or `lampq-onnx probe
--round 3`.
```sh
lampq-onnx inspect            # a comment
lampq-onnx inspect m.onnx >> log
lampq-onnx quantize digits --no-bits 3 ... \\
  --output out
torchrun -m lampq_onnx validate m.onnx --validation v --max-dropp 3
```
"""
    problems = [problem_of(words, complete=complete) for words, complete in commands_of(text)]
    assert [bool(problem) for problem in problems] == [True, False, True, True, False, True, True]
    assert "--max-dropp" in problems[3]
    assert "no command prob" in problems[5]


def python_problems(block: Block) -> list[str]:
    """What a block of Python names in this package and is not there."""
    tree = ast.parse(block.text)
    problems = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "lampq_onnx":
            module = importlib.import_module(str(node.module))
            problems += [f"{node.module}.{a.name}" for a in node.names if not hasattr(module, a.name)]
        elif isinstance(node, ast.Call) and (name := _own_name(node.func)):
            problems += _argument_problems(name, node)
        if name := _own_name(node):
            try:
                _resolve(name)
            except AttributeError:
                problems.append(name)
    return problems


def _own_name(node: ast.AST) -> str:
    """A dotted name that begins with the package, or nothing."""
    name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
    return name if re.fullmatch(r"lampq_onnx(\.\w+)+", name) else ""


def _resolve(name: str) -> Any:
    found: Any = lampq_onnx
    for part in name.split(".")[1:]:
        found = getattr(found, part)
    return found


def _argument_problems(name: str, call: ast.Call) -> list[str]:
    try:
        parameters = inspect.signature(_resolve(name)).parameters
    except (AttributeError, ValueError):
        return []  # said where the name is resolved
    takes_options = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    problems = []
    for given in call.keywords:
        if given.arg is None or given.arg in parameters:
            continue
        try:
            if not takes_options:
                raise UsageError("no option")
            by_flag(given.arg)
        except UsageError:
            problems.append(f"{name}({given.arg}=)")
    return problems


def data_problem(block: Block) -> str:
    """Why a block of JSON or TOML cannot be read; empty: it can. Recipes have to be valid."""
    try:
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "toml" and set(tomllib.loads(block.text)) <= set(SECTIONS):
            parse_values(block.text, "recipe.toml")
    except (ValueError, UsageError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("page", PAGES)
def test_python_json_and_toml_are_right(page: str) -> None:
    for block in page_blocks(page):
        if block.language == "python":
            assert not python_problems(block), block
        assert not data_problem(block), block


def test_wrong_names_are_found() -> None:
    text = (
        "import lampq_onnx\nfrom lampq_onnx.errors import LampqError, Gone\n"
        "r = lampq_onnx.quantize('digits', 'out', bits=3, bitz=4)\nlampq_onnx.gone(r)\nlampq_onnx.BitPlan.lode('x')\n"
    )
    found = python_problems(Block("p.md", 1, "python", text))
    assert sorted(found) == sorted(
        ["lampq_onnx.errors.Gone", "lampq_onnx.quantize(bitz=)", "lampq_onnx.gone", "lampq_onnx.BitPlan.lode"]
    )
    assert "calibraton" in data_problem(Block("p.md", 1, "toml", "[images]\ncalibraton = 'x'"))
    assert data_problem(Block("p.md", 1, "json", "{"))
