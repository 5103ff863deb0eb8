"""Print what every runtime does with the files of every target, as docs/targets.md has it.

    python -m tools.bench.targets                       # the embedded model, all runtimes
    python -m tools.bench.targets --only openvino       # one of them
    python -m tools.bench.targets --float float.onnx --calibration DIR --validation DIR

Every runtime is a file with_NAME.py here, with a function `rows`. The rows say what the runtime itself reports, and why
they were not run where its package or its hardware is missing. Weights are rounded to nearest, input ranges are the
smallest and largest values of 32 calibration images.
"""

from __future__ import annotations

import argparse
import datetime
import pkgutil
import tempfile
from dataclasses import astuple
from importlib import import_module
from pathlib import Path

from lampq_onnx.runtime.environment import describe_environment
from tools.bench import targets
from tools.bench.targets.case import Row, Rows, embedded, given

COLUMNS = (
    *("runtime", "target", "widths", "loads", "layers on integer kernels", "worst layer", "agreement"),
    "as fast as float there, batch 1 and 8 [quartiles]",
)


def runtimes() -> dict[str, str]:
    """Return the runtimes: name -> module."""
    found = sorted(module.name for module in pkgutil.iter_modules(targets.__path__))
    return {name.removeprefix("with_"): f"{targets.__name__}.{name}" for name in found if name.startswith("with_")}


def line(row: Row) -> str:
    """A row in Markdown."""
    return "| " + " | ".join(astuple(row)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = runtimes()
    parser.add_argument("--only", default=",".join(known), help=f"runtimes, with commas: {', '.join(known)}")
    parser.add_argument("--float", type=Path, help="a float file that lampq-onnx wrote; default: the embedded model")
    parser.add_argument("--calibration", type=Path, help="images for the ranges of inputs")
    parser.add_argument("--validation", type=Path, help="images to compare answers on")
    parser.add_argument("--images", type=int, default=256, help="number of images to compare answers on")
    options = parser.parse_args()
    chosen = options.only.split(",")
    unknown = [name for name in chosen if name not in known]
    if unknown or (options.float and not (options.calibration and options.validation)):
        parser.error(f"unknown runtime {unknown[0]}" if unknown else "--float needs --calibration and --validation")
    with tempfile.TemporaryDirectory(prefix="lampq-targets-") as room:
        folder = Path(room)
        if options.float:
            case = given(options.float, options.calibration, options.validation, folder, options.images)
        else:
            case = embedded(folder, options.images)
        environment = describe_environment("")
        model = options.float.name if options.float else "digits, the embedded model"
        print(
            f"{model}; {environment.cpu} ({', '.join(environment.cpu_flags)}), one thread, "
            f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}\n"
        )
        print("| " + " | ".join(COLUMNS) + " |")
        print("|---" * len(COLUMNS) + "|")
        for name in chosen:
            rows: Rows = import_module(known[name]).rows
            for row in rows(case):
                print(line(row), flush=True)


if __name__ == "__main__":
    main()
