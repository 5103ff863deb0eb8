"""Every program of the checkout that a page shows has the options that the page gives it.

They take minutes or hours, so they are not run; each prints its help.
"""

from __future__ import annotations

import json
import re
import subprocess

from lampq_onnx.config.sections import FIELDS
from tests.documents.blocks import PAGES, REPOSITORY, blocks_of, without_blocks
from tests.prepared import PreparedPython, environment

PROGRAM = re.compile(r"python (?:-m )?(tools[./][\w./]+)([^\n]*?)(?= python |\n|$)")
INLINE = re.compile(r"`(python\s+(?:-m\s+)?tools[./][^`]+)`")
OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]*")
HELP = """
import json, os, runpy, sys, tempfile
sys.path.insert(0, ".")
answer, said, path = os.fdopen(os.dup(1), "w"), [], list(sys.path)
for name, *words in json.load(sys.stdin):
    sys.argv = ["program", *words, "--help"]
    with tempfile.TemporaryFile("w+") as text:
        os.dup2(text.fileno(), 1)  # for programs that a program starts, too
        try:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        except SystemExit as done:
            assert not done.code, name
        except BaseException as error:
            error.add_note(name)
            raise
        sys.stdout.flush()
        text.seek(0)
        said.append(text.read())
    sys.path[:] = path
    for module in [module for module in sys.modules if module.partition(".")[0] == "tools"]:
        del sys.modules[module]
with answer:
    json.dump(said, answer)
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


def text_of(name: str) -> str:
    """What the file of a program holds."""
    path = REPOSITORY / name.replace(".", "/")
    return (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")


def help_of(programs: list[list[str]], python: PreparedPython) -> dict[tuple[str, ...], str]:
    """What each program, a module and its first words, prints with --help; one process asks them all."""
    done = subprocess.run(
        [*python.command, "-c", HELP],
        cwd=REPOSITORY, env=environment(), input=json.dumps(programs), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {tuple(words): text for words, text in zip(programs, json.loads(done.stdout), strict=True)}
    assert all(found.values()), [words for words, text in found.items() if not text]
    return found


def test_programs_have_their_options(prepared: PreparedPython) -> None:
    asked: dict[tuple[str, str], set[str]] = {}
    for page in PAGES:
        for name, words in programs_of((REPOSITORY / page).read_text(encoding="utf-8")):
            first = re.match(r" ([a-z]+)(?= |$)", words)
            asked.setdefault((name, first[1] if first else ""), set()).update(OPTION.findall(words))
    assert len(asked) > 20
    # A program that reads no options would run, so it is not asked.
    texts = {name: text_of(name) for name, _ in asked}
    reads = [name for name, text in texts.items() if re.search(r"^import (?:argparse|typer)$", text, re.MULTILINE)]
    said = help_of([[name] for name in reads], prepared)
    commands = [
        [name, first]
        for name, first in asked
        if first and name in reads and re.search(rf"\b{first}\b", said[name,].partition("\n\n")[0])
    ]
    said |= help_of(commands, prepared)
    # Options of recipes that a program takes are not all in its help.
    recipes = " ".join(field.dashed for field in FIELDS)
    wrong = []
    for (name, first), options in asked.items():
        text = said.get((name,), "") + said.get((name, first), "")
        text += recipes if name in reads and "@with_options(" in texts[name] else ""
        wrong += [f"{name}: {option}" for option in options if option not in text]
    assert not wrong, wrong


def test_programs_are_found() -> None:
    text = "```sh\npython tools/a.py x \\\n  --one 1   # --two\n```\nand `python -m\ntools.bench.b speed --three`"
    assert programs_of(text) == [("tools.a", " x    --one 1  "), ("tools.bench.b", " speed --three")]
