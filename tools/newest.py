"""Check the newest releases of all dependencies: they install together, and the package works with them.

    python tools/newest.py                    # in a temporary folder that is removed; takes minutes and gigabytes
    python tools/newest.py --folder FOLDER    # in a folder that stays; a second call upgrades its environment
    python tools/newest.py --pre pulp         # and the newest pre-release of a dependency

Indirect dependencies are upgraded as well. Then the quickstart runs from an installed wheel, and a part of the tests
runs against it. The versions are printed, so that a failure can be traced to one of them. The exit code is 1 if
anything fails.

To start, this needs Python 3.11 and nothing else.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from tools.walking.places import working_folder  # noqa: E402
from tools.walking.versions import TESTS, environment, lower_bounds, run, try_out  # noqa: E402


def pre_releases(names: list[str], known: dict[str, str]) -> list[list[str]]:
    """A call of pip's install for each package whose pre-releases are wanted.

    Raises:
        ValueError: a name that is no direct dependency; names the nearest spelling, if there is one.
    """
    spelled = {name.lower(): name for name in known}
    for name in names:
        if name.lower() not in spelled:
            raise ValueError(f"{name} is no dependency of the package; those are {', '.join(known)}")
    return [["--upgrade", "--pre", spelled[name.lower()]] for name in names]


def main() -> int:
    parser = argparse.ArgumentParser(description="Install the newest releases and run the package with them.")
    parser.add_argument("--folder", type=Path, help="keep all files in this folder")
    parser.add_argument("--tests", nargs="*", default=TESTS, help="files and folders below tests/ to run")
    parser.add_argument("--pre", nargs="*", default=[], help="dependencies to install as their newest pre-release")
    options = parser.parse_args()
    try:
        further = pre_releases(options.pre, lower_bounds(REPOSITORY / "pyproject.toml"))
    except ValueError as error:
        parser.error(str(error))
    with working_folder(options.folder, again=True) as folder:
        try:
            python = environment(folder, ["--upgrade", "--upgrade-strategy", "eager"], further)
            run([str(python), "-m", "pip", "list"], folder)
            try_out(python, folder, options.tests)
        except subprocess.CalledProcessError as error:
            print(f"failed: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
