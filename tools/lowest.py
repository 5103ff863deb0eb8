"""Check the lowest versions that pyproject.toml allows: they install together, and the package works with them.

    python tools/lowest.py                    # in a temporary folder that is removed; takes minutes and gigabytes
    python tools/lowest.py --folder FOLDER    # in a folder that stays; a second call uses its environment again

Every direct dependency has its lower bound. For indirect dependencies, pip chooses the version. Then the quickstart
runs from an installed wheel, and a part of the tests runs against it. The exit code is 1 if anything fails.

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
from tools.walking.versions import TESTS, environment, lower_bounds, try_out  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description="Install the lowest allowed versions and run the package with them.")
    parser.add_argument("--folder", type=Path, help="keep all files in this folder")
    parser.add_argument("--tests", nargs="*", default=TESTS, help="files and folders below tests/ to run")
    options = parser.parse_args()
    with working_folder(options.folder, again=True) as folder:
        constraints = folder / "lowest.txt"
        bounds = lower_bounds(REPOSITORY / "pyproject.toml")
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in bounds.items()), encoding="utf-8")
        try:
            try_out(environment(folder, ["-c", str(constraints)]), folder, options.tests)
        except subprocess.CalledProcessError as error:
            print(f"failed: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
