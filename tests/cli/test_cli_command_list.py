"""The list of all commands, which loads none of them."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from lampq_onnx.cli.command_list import Listed, LoadedCommands
from lampq_onnx.cli.main import COMMANDS, app, program
from tests.cli.conftest import invoke

NAMES = [name for group in COMMANDS.values() for name in group]


@pytest.mark.parametrize("name", NAMES)
def test_the_list_says_what_the_command_itself_says(name: str) -> None:
    command = program().commands[name]
    first, _, _ = inspect.cleandoc(command.help).partition("\n\n")
    (line,) = (group[name] for group in COMMANDS.values() if name in group)
    assert line.does == " ".join(first.split())
    assert command.name == name
    assert command.rich_help_panel == next(panel for panel, group in COMMANDS.items() if name in group)


def test_a_command_is_loaded_once_and_only_when_it_is_read() -> None:
    commands = LoadedCommands(COMMANDS)
    assert list(commands) == NAMES == list(commands.lines)
    assert len(commands) == len(NAMES)
    assert commands.get("quantise") is None
    assert commands["schema"] is commands["schema"]
    assert [line.help for line in commands.lines.values()] == [
        listed.does for group in COMMANDS.values() for listed in group.values()
    ]


def test_an_error_of_loading_does_not_hide_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise KeyError("of the module")

    monkeypatch.setattr(Listed, "load", load)
    commands = LoadedCommands({"panel": {"broken": Listed("broken", "does nothing")}})
    assert "broken" in commands
    assert "other" not in commands
    assert commands.get("other", 3) == 3
    with pytest.raises(KeyError, match="of the module"):
        commands.get("broken")


def test_a_name_that_is_almost_right_is_suggested() -> None:
    code, _, err = invoke("quantise")
    assert code == 2
    assert "Did you mean 'quantize'?" in err
    assert app.info.name == "lampq-onnx"


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"]])
def test_no_command_is_loaded_for_what_none_is_needed_for(words: list[str]) -> None:
    code = (
        "import sys\n"
        "from lampq_onnx.cli.main import run\n"
        "try:\n"
        f"    run({words})\n"
        "except SystemExit as done:\n"
        "    assert not done.code\n"
        "own = {name for name in sys.modules if name.startswith('lampq_onnx.')}\n"
        "assert own == {'lampq_onnx.errors', 'lampq_onnx.cli', 'lampq_onnx.cli.main', 'lampq_onnx.cli.command_list',\n"
        "               'lampq_onnx.cli.collector', 'lampq_onnx.cli.interrupt'}, own\n"
        "assert 'numpy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
