"""Do what a new user does, from nothing to a gate in a pipeline, each step as a real command.

    python tools/walk.py                             # in a temporary folder that is removed; minutes and gigabytes
    python tools/walk.py --folder FOLDER             # in a new folder that stays
    python tools/walk.py --python .venv/bin/python   # in an environment that already has lampq-onnx and playwright

This builds the wheel of the checkout and installs it in a new environment. After that it uses only two scripts of the
checkout, which stand for the user: tools/own_model.py (model and images) and tools/look.py (browser). At the end it
prints a table of the steps. The exit code is 1 if a step fails, or does not show what it should.

To start, this needs Python 3.11 and nothing else.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from tools.own_model import CHECKPOINT, TIMM_ARGS, TIMM_MODEL  # noqa: E402
from tools.walking import checks  # noqa: E402
from tools.walking.places import working_folder  # noqa: E402
from tools.walking.steps import Failure, Step, Walk  # noqa: E402

TOOLS = REPOSITORY / "tools"
PYTHON_PAGE = REPOSITORY / "docs/how-to/stages.md"
BLOCK_LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
MODEL_WORDS = [TIMM_MODEL, "--checkpoint", f"own/{CHECKPOINT}"]
MODEL_WORDS += [word for key, value in TIMM_ARGS.items() for word in ("--model-arg", f"{key}={value}")]
GATE = ["--validation", "own/validation", "--max-drop", "2", "--gate-agreement", "0.9"]


def install(folder: Path) -> list[Step]:
    """Steps that build the wheel of the checkout and install it in a new environment."""
    python = str(folder / "venv/bin/python")
    return [
        Step("environment", [sys.executable, "-m", "venv", "venv"]),
        Step(
            "wheel", [python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "dist", str(REPOSITORY)],
            check=lambda: checks.wheel(folder / "dist"),
        ),
        Step("install", lambda: [python, "-m", "pip", "install", "--quiet", *checks.wheels(folder / "dist")]),
        Step("a browser's driver", [sys.executable, "-m", "venv", "browser"]),
        Step("", [str(folder / "browser/bin/python"), "-m", "pip", "install", "--quiet", "playwright>=1.45"]),
    ]  # fmt: skip


def use(folder: Path, browser: Path) -> list[Step]:
    """Steps of a user with the installed package, in the order of the documentation."""
    look = [str(browser), str(TOOLS / "look.py")]
    return [
        Step("which version", ["lampq-onnx", "--version"]),
        Step("doctor", ["lampq-onnx", "doctor"]),
        Step("quickstart", checks.quickstart(REPOSITORY / "Makefile"), check=lambda: checks.results(folder / "out")),
        Step("its report", [*look, "out/report.html", "--light", "quickstart.png"], browser=True),
        Step("from Python", ["python", "snippet.py"], before=lambda: checks.snippet(PYTHON_PAGE, folder)),
        Step("own model", ["python", str(TOOLS / "own_model.py"), "own"]),
        Step("its doctor", ["lampq-onnx", "doctor", *MODEL_WORDS, "--validation", "own/validation"]),
        Step(
            "quantize it",
            ["lampq-onnx", "quantize", *MODEL_WORDS, "--calibration", "own/calibration",
             "--validation", "own/validation", "--bits", "4", "--baseline", "uniform", "--output", "own4"],
            check=lambda: checks.results(folder / "own4"),
        ),
        Step("its report", [*look, "own4/report.html", "--light", "own.png"], browser=True),
        Step(
            "sweep, and pick",
            ["lampq-onnx", "sweep", "--recipe", "own4/recipe.toml", "--bits", "2..5:1", "--output", "sweep",
             "--pick", "drop<=1, min size"],
            check=lambda: checks.picked(folder / "sweep"),
        ),
        Step("its page", [*look, "sweep/sweep.html", "--light", "sweep.png"], browser=True),
        Step("the picked report", [*look, "sweep/report.html"], browser=True),
        Step(
            "package", ["lampq-onnx", "package", "sweep", "--format", "ort", "--output", "served"],
            check=lambda: checks.packaged(folder / "served"),
        ),
        Step("its answers", ["python", str(TOOLS / "walking/same_answers.py"), "sweep/model.onnx", "served"]),
        Step(
            "gate, passed",
            ["lampq-onnx", "validate", "sweep/model.onnx", "--reference", "sweep/float.onnx", *GATE,
             "--junit", "good.xml", "--summary", "good.md"],
            check=lambda: checks.gates(folder / "good.xml", failed=False),
        ),
        Step(
            "a bad file",
            ["lampq-onnx", "convert", "own4/float.onnx", "--plan", "bad.json", "--calibration", "own/calibration",
             "-o", "bad.onnx"],
            before=lambda: checks.bad_plan(folder / "bad.json", TIMM_ARGS["depth"], BLOCK_LAYERS),
        ),
        Step(
            "gate, failed",
            ["lampq-onnx", "validate", "bad.onnx", "--reference", "own4/float.onnx", *GATE,
             "--junit", "bad.xml", "--summary", "bad.md"],
            expected=1,
            check=lambda: checks.gates(folder / "bad.xml", failed=True),
        ),
        Step(
            "reproduce",
            ["lampq-onnx", "reproduce", "own4/model.onnx", "--checkpoint", f"own/{CHECKPOINT}",
             "--calibration", "own/calibration"],
        ),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="Do what a new user does, and print a table of the steps.")
    parser.add_argument("--folder", type=Path, help="keep all files in this new folder")
    parser.add_argument("--python", type=Path, help="use this environment instead of building and installing")
    options = parser.parse_args()
    with working_folder(options.folder) as folder:
        if options.python is None:
            binaries, browser = folder / "venv/bin", folder / "browser/bin/python"
            first = install(folder)
            os.environ.pop("PYTHONPATH", None)  # the steps are to find the installed package, not a checkout
        else:
            binaries, browser = options.python.absolute().parent, options.python.absolute()
            first = []
        walk = Walk(folder, binaries)
        try:
            for step in [*first, *use(folder, browser)]:
                walk.take(step)
        except Failure as failure:
            print(f"\nfailed: {failure}", file=sys.stderr)
            return 1
        finally:
            print(f"\n{walk.table()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
