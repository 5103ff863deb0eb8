"""Every program of the checkout that a page shows has the options that the page gives it.

They take minutes or hours, so they are not run; each prints its help.
"""

from __future__ import annotations

import re
import subprocess

from lampq_onnx.config.sections import FIELDS
from tests.documents.blocks import PAGES, REPOSITORY, blocks_of, without_blocks
from tests.prepared import PreparedPython, environment

PROGRAM = re.compile(r"python (?:-m )?(tools[./][\w./]+)([^\n]*?)(?= python |\n|$)")
INLINE = re.compile(r"`(python\s+(?:-m\s+)?tools[./][^`]+)`")
OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]*")
HELP = """
import runpy, sys
sys.path.insert(0, "."); sys.argv = ["program", *sys.argv[2:], "--help"]
runpy.run_module(NAME, run_name="__main__", alter_sys=True)
"""


def programs_of(text: str) -> list[tuple[str, str]]:
    """Module and words of each program that a page's text shows."""
    shown = [block.text.replace("\\\n", " ") for block in blocks_of(text, "page")]
    shown += [" ".join(found.split()) for found in INLINE.findall(without_blocks(text))]
    return [
        (name.removesuffix(".py").replace("/", "."), re.split(" (?:#|-- )", words)[0])
        for line in shown
        for name, words in PROGRAM.findall(line)
    ]


def options_of(name: str, first: str, python: PreparedPython) -> str:
    """A text with all options of a program, and of the command of it that its first word may be.

    A program that reads no options would run, so it is not asked. Options of recipes that a program takes are not all
    in its help.
    """
    path = REPOSITORY / name.replace(".", "/")
    text = (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    if not re.search(r"^import (?:argparse|typer)$", text, re.MULTILINE):
        return ""
    found = help_of(name, [], python)
    if first and re.search(rf"\b{first}\b", found.partition("\n\n")[0]):
        found += help_of(name, [first], python)
    return found + (" ".join(field.dashed for field in FIELDS) if "@with_options(" in text else "")


def help_of(name: str, words: list[str], python: PreparedPython) -> str:
    """What a program prints with --help, behind these words."""
    source = f"NAME = {name!r}\n{HELP}"
    done = subprocess.run(
        [*python.command, "-c", source, "-", *words],
        cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{name}: {done.stderr}"
    return done.stdout


def test_programs_have_their_options(prepared: PreparedPython) -> None:
    asked: dict[tuple[str, str], set[str]] = {}
    for page in PAGES:
        for name, words in programs_of((REPOSITORY / page).read_text(encoding="utf-8")):
            first = re.match(r" ([a-z]+)(?= |$)", words)
            asked.setdefault((name, first[1] if first else ""), set()).update(OPTION.findall(words))
    assert len(asked) > 20
    wrong = []
    for (name, first), options in asked.items():
        text = options_of(name, first, prepared)
        wrong += [f"{name}: {option}" for option in options if option not in text]
    assert not wrong, wrong


def test_programs_are_found() -> None:
    text = "```sh\npython tools/a.py x \\\n  --one 1   # --two\n```\nand `python -m\ntools.bench.b speed --three`"
    assert programs_of(text) == [("tools.a", " x    --one 1  "), ("tools.bench.b", " speed --three")]
