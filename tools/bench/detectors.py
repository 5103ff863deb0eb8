"""Quantize a small detector of each family of transformers, with random weights, and print one row for each.

    python -m tools.bench.detectors                        # all
    python -m tools.bench.detectors --only rt-detr d-fine  # some

The table shows which layers get a width, whether the file computes what was simulated, and its speed. It shows no
accuracy: nothing was trained. A row that fails gives the reason, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import lampq_onnx
from lampq_onnx.artifacts import Report
from lampq_onnx.errors import LampqError
from lampq_onnx.runtime.environment import describe_environment
from tools.detector.families import FAMILIES, write_detector
from tools.scenes import write_coco

CALIBRATION, VALIDATION = 8, 16
"""Numbers of scenes."""

COLUMNS = ("family", "layers", "largest error of a layer", "kernels / simulation", "SQNR, dB", "speed", "s")


def row(name: str, folder: Path, bits: float) -> tuple[str, bool]:
    """One line of the table, and whether the model was quantized."""
    start = time.perf_counter()
    try:
        report = lampq_onnx.quantize(
            str(write_detector(name, folder / name)), folder / f"{name}-{bits:g}",
            calibration=folder / "calibration" / "annotations.json",
            validation=folder / "validation" / "annotations.json",
            bits=bits, effort="fast", latency_runs=20,
        )  # fmt: skip
        cells = figures(report)
    except LampqError as error:
        cells = (f"**refused**: {error.message}", "", "", "", "")
        return f"| {' | '.join((name, *cells, f'{time.perf_counter() - start:.0f}'))} |", False
    return f"| {' | '.join((name, *cells, f'{time.perf_counter() - start:.0f}'))} |", True


def figures(report: Report) -> tuple[str, ...]:
    """The cells of a report."""
    kinds = Counter(layer.type for layer in report.layers)
    fidelity, times = report.fidelity, report.latency
    low, high = times.speedup_quartiles
    sqnr = report.accuracy.logit_sqnr_db
    return (
        ", ".join(f"{count} {kind}" for kind, count in kinds.items()),
        f"{fidelity.layer_max:.0e}",
        f"{fidelity.excess_error:+.1%} / {fidelity.simulation_excess:+.1%}",
        "exact" if sqnr is None else f"{sqnr:.1f}",
        f"{times.speedup:.2f} [{low:.2f}, {high:.2f}]",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Quantize a small detector of each family.")
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES), metavar="NAME")
    parser.add_argument("--bits", type=float, default=8)
    options = parser.parse_args()
    print(f"{describe_environment('').cpu}; W{options.bits:g}A8, random weights, {VALIDATION} scenes")
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    done = []
    with tempfile.TemporaryDirectory(prefix="lampq-") as room:
        folder = Path(room)
        write_coco(folder / "calibration", 1, CALIBRATION)
        write_coco(folder / "validation", 2, VALIDATION)
        for name in options.only:
            line, fine = row(name, folder, options.bits)
            print(line, flush=True)
            done.append(fine)
    sys.exit(0 if all(done) else 1)


if __name__ == "__main__":
    main()
