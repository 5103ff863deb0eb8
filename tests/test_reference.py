"""The pages of reference that are made from the code when the site is built."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from lampq_onnx.cli.main import COMMANDS
from lampq_onnx.config.sections import FIELDS

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks_of_the_layer", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def section(text: str, title: str) -> str:
    return re.split(r"^## ", text.partition(f"## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def test_commands_stand_in_their_order(hooks: ModuleType) -> None:
    assert re.findall(r"^## (\w+)$", hooks.commands(), re.MULTILINE) == [
        n for group in COMMANDS.values() for n in group
    ]


def test_options_of_a_command_that_are_not_those_of_recipes_are_its_own(hooks: ModuleType) -> None:
    text = hooks.commands()
    own, shared = section(text, "sweep").split("[Options]")
    assert "| `--bits` | Average bits to try" in own
    assert "`--bits`" not in shared
    assert "`--gamma`" in shared
    own, shared = section(text, "validate").split("[Options]")
    assert "| `--gate-agreement --min-agreement` |" in own
    assert "`--validation`" in shared
    own, shared = section(text, "quantize").split("[Options]")
    assert "| `MODEL` |" in own
    assert "--model`" not in shared


def test_every_option_has_a_row(hooks: ModuleType) -> None:
    text = hooks.options()
    for field in FIELDS:
        if field.same_as is None:
            (row,) = re.findall(rf"^\| `{field.name}` \|.*$", section(text, f"[{field.section}]"), re.MULTILINE)
            assert row.endswith(f"| {'yes' if field.level == 'basic' else ''} |")
    assert "{" not in re.sub(r"`[^`]*`", "", text)


def test_every_mark_is_on_a_page(hooks: ModuleType) -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    assert all(pages.count(mark) == 1 for mark in hooks.MARKS)
    assert "<!--" not in hooks.on_page_markdown(pages)
