"""The walk of a new user: its steps fail when they should, and its commands are those of the pages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools import walk
from tools.walking import checks
from tools.walking.steps import Failure, Step, Walk

PYTHON = sys.executable
QUICK = "import sys; print('first'); print('second', file=sys.stderr)"


@pytest.fixture
def walker(tmp_path: Path) -> Walk:
    return Walk(tmp_path, Path(PYTHON).parent)


def test_a_step_is_timed_checked_and_tabled(walker: Walk, capfd: pytest.CaptureFixture[str]) -> None:
    slow = "import time; print('a', flush=True); time.sleep(0.3); print('b')"
    walker.take(Step("wait", ["python", "-c", slow], check=lambda: "all | there"))
    (taken,) = walker.taken
    # The silence begins when the first line is read, which is a little after it was written.
    assert taken.seconds >= taken.silence >= 0.25
    assert "    a\n    b\n" in capfd.readouterr().out
    row = walker.table().splitlines()[2]
    assert row.startswith("| wait | `python -c ")
    assert row.endswith("| 0 | all \\| there |")


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Step("fails", [PYTHON, "-c", QUICK + "; sys.exit(3)"]), "exit code 3, expected 0\n.*second"),
        (Step("passes", [PYTHON, "-c", QUICK], expected=1), "exit code 0, expected 1"),
        (Step("missing", ["no-such-program"]), "no-such-program"),
    ],
    ids=lambda value: value.name if isinstance(value, Step) else "",
)
def test_a_wrong_exit_code_ends_the_walk(walker: Walk, step: Step, said: str) -> None:
    with pytest.raises(Failure, match=f"(?s){said}"):
        walker.take(step)
    assert "FAILED" in walker.table()


def test_what_is_missing_ends_the_walk(walker: Walk, tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"missing or empty: .*float\.onnx.*recipe\.toml"):
        walker.take(Step("nothing", [PYTHON, "-c", QUICK], check=lambda: checks.results(tmp_path)))
    assert "FAILED" in walker.table()


def test_only_a_missing_browser_is_skipped(walker: Walk) -> None:
    none = [PYTHON, "-c", "import sys; print('no Chromium'); sys.exit(3)"]
    walker.take(Step("look", none, browser=True))
    assert walker.taken[-1].seen == "skipped: no Chromium"
    with pytest.raises(Failure):
        walker.take(Step("look", [PYTHON, "-c", "import sys; sys.exit(1)"], browser=True))


def junit(path: Path, *failed: bool) -> Path:
    cases = "".join(f'<testcase name="g{i}">{"<failure/>" if bad else ""}</testcase>' for i, bad in enumerate(failed))
    path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    path.with_suffix(".md").write_text("# gate")
    return path


def test_gates_are_read_from_junit(tmp_path: Path) -> None:
    passed, mixed = junit(tmp_path / "a.xml", False, False), junit(tmp_path / "b.xml", False, True)
    assert checks.gates(passed, failed=False) == "2 gates"
    assert checks.gates(mixed, failed=True) == "failed: g1"
    for path, failed in ((passed, True), (mixed, False), (junit(tmp_path / "c.xml"), False)):
        with pytest.raises(Failure, match="gates failed, expected"):
            checks.gates(path, failed=failed)


def test_commands_are_those_of_the_pages(tmp_path: Path) -> None:
    assert checks.quickstart(walk.REPOSITORY / "Makefile")[:3] == ["lampq-onnx", "quantize", "digits"]
    checks.snippet(walk.REPOSITORY / "docs" / "how-to" / "stages.md", tmp_path)
    assert "lampq_onnx.quantize(" in (tmp_path / "snippet.py").read_text()
    (tmp_path / "empty").write_text("")
    for take in (checks.quickstart, lambda path: checks.snippet(path, tmp_path)):
        with pytest.raises(Failure):
            take(tmp_path / "empty")
