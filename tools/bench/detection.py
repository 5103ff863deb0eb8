"""Measure the box AP of a detector in float, with uniform bits and with LampQ's, from checked files in onnxruntime.

    python tools/bench/detection.py models/scenes

This generates the scenes (see tools/scenes.py) in a temporary folder. --calibration and --validation take other images
with boxes in COCO format, such as instances_val2017.json for a pretrained detector of transformers. Each row is printed
when its run ends. ± is the standard error of the drop, from a jackknife over images. "to float" means: the float
model's own certain detections are used as the truth.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

import lampq_onnx
from lampq_onnx.artifacts.report import Accuracy
from lampq_onnx.config.options import EffortName
from lampq_onnx.errors import LampqError
from lampq_onnx.runtime.environment import describe_environment

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tools.scenes import write_coco

SCENES = Path("models/scenes")
CALIBRATION_SEED, VALIDATION_SEED = 1, 2
"""Series of scenes that the training has not seen: it draws 0, and 3 to choose by."""

TRAINING = "python -m tools.train_detector --device cuda --output models/scenes"
COLUMNS = ("W/A", "model", "MB", "AP", "AP50", "AP75", "drop of AP", "AP to float", "agreement", "SQNR, dB")

app = typer.Typer(add_completion=False)


def require_model(model: str) -> None:
    """Exit with a message if the detector of the scenes is wanted and was not trained yet."""
    if Path(model) == SCENES and not (SCENES / "config.json").is_file():
        raise LampqError(f"there is no detector in {SCENES}", hint=f"train it, minutes on a GPU: {TRAINING}")


def row(setting: str, model: str, size: int, accuracy: Accuracy, *, quantized: bool) -> str:
    """One line of the table, for the float or the quantized side of an accuracy."""
    side = 1 if quantized else 0
    own = accuracy.quantized if quantized else accuracy.float_
    scores = {name: pair[side] for name, pair in accuracy.scores.items()}
    sqnr = "exact" if accuracy.logit_sqnr_db is None else f"{accuracy.logit_sqnr_db:.1f}"
    drop = f"{accuracy.drop_points:.2f} ± {accuracy.standard_error_points:.2f}"
    compared = (drop, percent(scores["AP to float"]), f"{100 * accuracy.agreement:.1f} %", sqnr)
    cells = (
        setting, model, f"{size / 1e6:.2f}", percent(own.top1), percent(scores["AP50"]), percent(scores["AP75"]),
        *(compared if quantized else ("",) * 4),
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


@app.command()
def main(
    model: Annotated[str, typer.Argument(help="Folder of a transformers model, or a float .onnx.")] = str(SCENES),
    calibration: Annotated[Path | None, typer.Option(help="Images; default: generated scenes.")] = None,
    validation: Annotated[Path | None, typer.Option(help="COCO annotations; default: generated scenes.")] = None,
    bits: Annotated[str, typer.Option(help="Average weight bits, one run for each.")] = "8,6,4",
    activation_bits: Annotated[int, typer.Option(help="Width of every input.")] = 8,
    effort: Annotated[EffortName, typer.Option(help="Effort, as in quantize.")] = "balanced",
    calibration_images: Annotated[int, typer.Option(help="Number of scenes for calibration.")] = 128,
    validation_images: Annotated[int, typer.Option(help="Number of scenes for validation.")] = 500,
) -> None:
    """Print the table."""
    try:
        require_model(model)
        with tempfile.TemporaryDirectory(prefix="lampq-") as temporary:
            folder = Path(temporary)
            if calibration is None:
                calibration = write_coco(folder / "calibration", CALIBRATION_SEED, calibration_images)
            if validation is None:
                validation = write_coco(folder / "validation", VALIDATION_SEED, validation_images)
            print_table(model, calibration, validation, bits, activation_bits, effort, folder)
    except LampqError as error:
        print(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        raise typer.Exit(1) from error


def print_table(
    model: str, calibration: Path, validation: Path, bits: str, activation_bits: int, effort: EffortName, folder: Path
) -> None:
    print(f"{describe_environment('').cpu}; effort {effort}")
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    for index, width in enumerate(float(part) for part in bits.split(",")):
        report = lampq_onnx.quantize(
            model, folder / f"{width:g}", calibration=calibration, validation=validation, bits=width,
            activation_bits=activation_bits, effort=effort, baseline=("uniform",), latency_runs=3,
        )  # fmt: skip
        if index == 0:
            print(row("float", "float", report.size.float_bytes, report.accuracy, quantized=False), flush=True)
        setting, uniform = f"{width:g}/{activation_bits}", report.baselines["uniform"]
        print(row(setting, "uniform", uniform.quantized_bytes, uniform.accuracy, quantized=True))
        print(row(setting, "LampQ", report.size.quantized_bytes, report.accuracy, quantized=True), flush=True)


if __name__ == "__main__":
    app()
