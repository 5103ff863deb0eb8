"""Run the package with chosen versions of its dependencies: the quickstart, and a part of the tests."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from tools.walking.checks import quickstart, results, wheels

REPOSITORY = Path(__file__).resolve().parents[2]
REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[^\]]*\])?>=(?P<version>[0-9.]+)(,[^;]*)?")
TESTS = (
    "allocation", "artifacts", "cli/test_cli_errors.py", "converter", "html", "quantization", "runtime",
    "test_doctor.py", "test_locks.py", "test_recipe.py",
)  # fmt: skip
"""Those that touch every dependency and take seconds each; the quickstart stands for whole runs."""

RUNNERS = ("pytest", "hypothesis", "jsonschema")
"""What the tests need besides; at any version that goes with the others."""


def lower_bounds(project: Path) -> dict[str, str]:
    """Name of each direct dependency -> the lowest version that is allowed.

    Raises:
        ValueError: a dependency has no lower bound.
    """
    declared = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    found = {}
    for text in declared:
        bound = REQUIREMENT.fullmatch(text.replace(" ", ""))
        if bound is None:
            raise ValueError(f"{project}: dependency {text!r} has no lower bound; write {text.split()[0]}>=VERSION")
        found[bound["name"]] = bound["version"]
    return found


def run(words: Sequence[str], folder: Path, **environment: str) -> None:
    """Show a command and run it in a folder; whatever fails ends the program."""
    print(f"$ {shlex.join(words)}", flush=True)
    subprocess.run(words, cwd=folder, env=os.environ | environment, check=True)


def environment(folder: Path, options: Sequence[str], first: Sequence[Sequence[str]] = ()) -> Path:
    """An environment with the wheel of this checkout: its python.

    Args:
        options: of pip's install, which choose the versions.
        first: further calls of pip's install, after that of the wheel.
    """
    python = folder / "venv/bin/python"
    if not python.exists():
        run([sys.executable, "-m", "venv", "venv"], folder)
    pip = [str(python), "-m", "pip"]
    shutil.rmtree(folder / "dist", ignore_errors=True)
    run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", "dist", str(REPOSITORY)], folder)
    run([*pip, "install", "--quiet", *options, *wheels(folder / "dist"), *RUNNERS], folder)
    run([*pip, "install", "--quiet", "--force-reinstall", "--no-deps", *wheels(folder / "dist")], folder)
    for words in first:
        run([*pip, "install", "--quiet", *words], folder)
    run([*pip, "check"], folder)
    return python


def try_out(python: Path, folder: Path, tests: Sequence[str]) -> None:
    """Run the quickstart and tests with an environment.

    Args:
        tests: files and folders below tests/.
    """
    program, *words = quickstart(REPOSITORY / "Makefile")
    shutil.rmtree(folder / "out", ignore_errors=True)
    run([str(python.with_name(program)), *words], folder, LAMPQ_ONNX_CACHE=str(folder / "cache"))
    print(results(folder / "out"))
    run([str(python.with_name(program)), "doctor"], folder)
    run([str(python.with_name(program)), "quantize", "--help"], folder)
    # a copy of the tests alone, so that they find the installed package and not the checkout's
    shutil.rmtree(folder / "checkout", ignore_errors=True)
    for name in ("tests", "tools", "models", "docs"):
        shutil.copytree(REPOSITORY / name, folder / "checkout" / name)
    for name in ("pyproject.toml", "README.md", "Makefile"):
        shutil.copy2(REPOSITORY / name, folder / "checkout" / name)
    paths = [f"tests/{name}" for name in tests]
    run([str(python), "-m", "pytest", "-m", "not assets", "-p", "no:cacheprovider", *paths], folder / "checkout")
