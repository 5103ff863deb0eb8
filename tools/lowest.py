"""The lowest versions that pyproject.toml allows: do they install together, and does the package work with them?

    python tools/lowest.py                    # in a temporary folder that is removed; minutes and gigabytes
    python tools/lowest.py --folder FOLDER    # in a folder that stays; a second call uses its environment again

Every direct dependency is held at its lower bound, and those below it are whatever pip finds. Then the quickstart runs
from an installed wheel, and a part of the tests against it. Exit code 1 where anything fails.

It needs Python 3.11 and nothing else to start.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from tools.walking.checks import quickstart, results, wheels  # noqa: E402
from tools.walking.places import working_folder  # noqa: E402

BOUND = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[^\]]*\])?>=(?P<version>[0-9.]+)(,.*)?")
TESTS = (
    "allocation", "artifacts", "cli/test_cli_errors.py", "converter", "html", "quantization", "runtime",
    "test_doctor.py", "test_recipe.py",
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
        bound = BOUND.fullmatch(text.replace(" ", ""))
        if bound is None:
            raise ValueError(f"{project}: dependency {text!r} has no lower bound; write {text.split()[0]}>=VERSION")
        found[bound["name"]] = bound["version"]
    return found


def run(words: list[str], folder: Path, **environment: str) -> None:
    """Show a command and run it in a folder; whatever fails ends the program."""
    print(f"$ {shlex.join(words)}", flush=True)
    subprocess.run(words, cwd=folder, env=os.environ | environment, check=True)


def environment(folder: Path) -> Path:
    """An environment with the wheel of this checkout and every direct dependency at its lower bound: its python."""
    constraints = folder / "lowest.txt"
    bounds = lower_bounds(REPOSITORY / "pyproject.toml")
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in bounds.items()), encoding="utf-8")
    python = folder / "venv/bin/python"
    if not python.exists():
        run([sys.executable, "-m", "venv", "venv"], folder)
    pip = [str(python), "-m", "pip"]
    shutil.rmtree(folder / "dist", ignore_errors=True)
    run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", "dist", str(REPOSITORY)], folder)
    run([*pip, "install", "--quiet", "-c", str(constraints), *wheels(folder / "dist"), *RUNNERS], folder)
    run([*pip, "install", "--quiet", "--force-reinstall", "--no-deps", *wheels(folder / "dist")], folder)
    run([*pip, "check"], folder)
    return python


def main() -> int:
    parser = argparse.ArgumentParser(description="Install the lowest allowed versions and run the package with them.")
    parser.add_argument("--folder", type=Path, help="a folder for all files, which stays")
    parser.add_argument("--tests", nargs="*", default=TESTS, help="files and folders below tests/")
    options = parser.parse_args()
    with working_folder(options.folder, again=True) as folder:
        try:
            python = environment(folder)
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
            paths = [f"tests/{name}" for name in options.tests]
            run(
                [str(python), "-m", "pytest", "-m", "not assets", "-p", "no:cacheprovider", *paths], folder / "checkout"
            )
        except subprocess.CalledProcessError as error:
            print(f"failed: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
