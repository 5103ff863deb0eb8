"""Help pages: which options they show, in which order, and that nothing of them is lost on narrow terminals."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
import typer
from rich.markup import render
from typer.testing import CliRunner

from lampq_onnx.allocation.metrics import METRICS, Metric, uniform
from lampq_onnx.cli.help_page import HelpfulCommand, with_help_all
from lampq_onnx.cli.main import COMMANDS, FIRST_STEPS, program
from lampq_onnx.cli.names import ALL_TABLES
from lampq_onnx.cli.parameters import with_options
from lampq_onnx.config.names import filled
from lampq_onnx.config.sections import FIELDS, Values
from lampq_onnx.disk.option import PANELS
from lampq_onnx.targets import BY_CPU, TARGETS
from tests.cli.conftest import invoke

NAMES = [name for group in COMMANDS.values() for name in group]

OWN = [field for field in FIELDS if field.same_as is None and field.flag != "model"]

BOX = re.compile(r"[│╭╮╰╯─]")

BASIC = {
    *("--output", "--overwrite", "--dry-run", "--recipe", "--set", "--help", "--help-all"),
    *("--verbose", "--quiet", "--json", "--runtime"),
    *("--checkpoint", "--pretrained", "--device", "--calibration", "--validation"),
    *("--bits", "--max-size", "--max-latency", "--latency", "--min-agreement"),
    *("--effort", "--activation-bits", "--target", "--gate-agreement"),
}
"""What people give to `quantize`."""


def page(*words: str) -> str:
    code, out, err = invoke(*words)
    assert code == 0, err
    return out


def options_in(text: str) -> list[str]:
    """Options that have a row of their own."""
    return re.findall(r"^│ [* ]{0,6}(--[a-z][\w-]*)", text, re.MULTILINE)


def rows_of(text: str) -> Iterator[str]:
    """The text of each row of a page, its lines joined."""
    row = ""
    for line in text.splitlines():
        inside = BOX.sub(" ", line)
        if re.match(r"[╭╰]|│ [* ]{0,6}(--|[A-Z]{2,} )", line):
            yield row
            row = ""
        row += " " + inside.strip()
    yield row


def test_quantize_shows_what_people_need_and_all_of_it_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    short, long = options_in(page("quantize", "--help")), options_in(page("quantize", "--help-all"))
    assert set(short) == BASIC
    assert len(short) == len(BASIC)
    assert set(long) == {*BASIC, "--force", *(field.dashed for field in OWN)}
    assert len(set(long)) == len(long)


def test_what_is_named_for_one_stage_is_shown_there() -> None:
    shown = options_in(page("allocate", "--help"))
    assert {"--metric", "--packing", "--bits", "--max-size"} <= set(shown)
    assert not {"--gamma", "--wide-price"} & set(shown)
    assert {"--gamma", "--wide-price"} <= set(options_in(page("allocate", "--help-all")))
    convert = page("convert", "--help")
    assert {"--packing", "--seed", "--mean"} <= set(options_in(convert))
    assert "--help-all" not in convert  # it would show the same
    assert page("convert", "--help-all") == convert


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("option", ["--help", "--help-all"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_cut(name: str, option: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = page(name, option)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert "{" not in text.partition("\n\n")[2]  # every table was filled in
    rows = [" ".join(row.split()).removeprefix("* ") for row in rows_of(text)]
    shown = options_in(text)
    for param in program().commands[name].params:
        dashed = next((word for word in param.opts if word.startswith("--")), None)
        if dashed not in shown:
            assert dashed is None or param.hidden or param.name == "help_all"
            continue
        (row,) = (row for row in rows if row.split()[:1] == [dashed])
        wanted = render(filled(param.help, ALL_TABLES)).plain
        assert " ".join(wanted.split()) in row


def test_first_steps_fit_a_narrow_terminal() -> None:
    code, out, _ = invoke()
    assert code == 0
    assert out == FIRST_STEPS
    assert max(map(len, out.splitlines())) <= 80


def test_a_page_says_its_list_in_brackets() -> None:
    assert "depths=[2,2,6,2]" in page("quantize", "--help-all").replace("\n", "")


def test_names_in_a_page_come_from_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "random-walk", Metric(uniform, "a test's own", reads=frozenset()))
    text = " ".join(BOX.sub(" ", page("allocate", "--help")).split())
    assert ", ".join(METRICS) in text
    assert ", ".join((*BY_CPU, *TARGETS)) in text
    assert "random-walk" in page("list", "metrics")


def test_commands_stand_in_the_order_of_use() -> None:
    text = page("--help")
    places = [re.search(rf"^│ {name}\s", text, re.MULTILINE) for name in NAMES]
    starts = [found.start() for found in places if found]
    assert len(starts) == len(NAMES)
    assert starts == sorted(starts)
    assert NAMES[:7] == ["quantize", "sweep", "validate", "compare", "report", "inspect", "explain"]
    headings = [text.index(f" {panel} ─") for panel in COMMANDS]
    assert headings == sorted(headings)
    for word in ("--version", "--install-completion", "--show-completion"):
        assert word in text


def test_panels_stand_in_their_order() -> None:
    text = page("quantize", "--help-all")
    places = [text.index(f"─ {panel} ─") for panel in PANELS]
    assert places == sorted(places)


def test_alone_it_says_what_to_start_with() -> None:
    code, out, err = invoke()
    assert (code, err) == (0, "")
    commands = re.findall(r"^  lampq-onnx (\w+)\b.* {2}\S", out, re.MULTILINE)
    assert len(commands) == len(set(commands)) == 5
    assert set(commands) <= set(NAMES)
    assert "lampq-onnx --help" in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("words", "section", "key", "value"),
    [
        (["--gamma", "4"], "allocation", "gamma", 4.0),
        (["--no-equalize"], "analysis", "equalize", False),
        (["--equalize"], "analysis", "equalize", True),
        (["--update-rule", "count"], "update", "rule", "count"),
        (["--baseline", "uniform", "--baseline", "kl"], "output", "baselines", ("uniform", "kl")),
        (["--candidates", "2,4-6"], "allocation", "candidates", (2, 4, 5, 6)),
    ],
)
def test_hidden_options_are_taken(words: list[str], section: str, key: str, value: object) -> None:
    assert given_by(words)[section][key] == value


def given_by(words: list[str]) -> Any:
    """What a command with all options gets from the command line."""
    got: list[Values] = []
    own = typer.Typer()

    @with_options("model", "images", "allocation", "budgets", "analysis", "rounding", "update", "output")
    def command(*, flag: Annotated[bool, typer.Option("--flag")] = False, values: Values) -> None:
        """Take options."""
        got.append(values)

    own.command(cls=HelpfulCommand)(with_help_all(command))
    done = CliRunner().invoke(own, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return got[0]


def test_set_overrides_a_recipe_and_an_option_overrides_both(tmp_path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text("[allocation]\nbits = 2\ngamma = 2\nfixed_bits = 6\n[model.model_args]\ndepth = 2\n")
    words = ["--recipe", str(recipe), "--set", "allocation.gamma=3", "--set", "allocation.bits=3", "--bits", "5"]
    found = given_by([*words, "--set", "model.model_args.embed_dim=64"])
    assert found["allocation"] == {"bits": 5.0, "gamma": 3.0, "fixed_bits": 6}
    assert found["model"]["model_args"] == {"depth": 2, "embed_dim": 64}


def test_older_names_work_and_are_not_shown(tmp_path) -> None:
    assert "--force" not in page("init", "--help-all")
    path = tmp_path / "r.toml"
    path.write_text("mine")
    assert invoke("init", path, "--force")[0] == 0
    assert "--min-agreement" not in options_in(page("validate", "--help-all"))
    code, _, err = invoke("validate", "m.onnx", "--min-agreement", "2")
    assert (code, "--min-agreement" in err) == (2, True)


def test_help_loads_none_of_the_large_packages() -> None:
    code = (
        "import contextlib, io, sys\n"
        "from lampq_onnx.cli.main import COMMANDS, run\n"
        "words = [[n, o] for g in COMMANDS.values() for n in g for o in ('--help', '--help-all')]\n"
        "lists = [['list', name] for name in ('targets', 'metrics', 'formats', 'tasks')]\n"
        "for word in [[], ['--help'], ['list'], *lists, *words]:\n"
        "    with contextlib.redirect_stdout(io.StringIO()):\n"
        "        try:\n"
        "            run(word)\n"
        "        except SystemExit as done:\n"
        "            assert not done.code, word\n"
        "    found = {'torch', 'timm', 'onnxruntime', 'onnx', 'pulp', 'plotly', 'transformers'} & set(sys.modules)\n"
        "    assert not found, (word, found)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
