"""Measure the box AP of detectors in float, with uniform bits, LampQ's metric and measured costs (kl), in onnxruntime.

The columns uniform, lampq, "kl, layers" and "kl, groups" are drops of box AP in points; ± is the standard error, from a
jackknife over images. In the first three every layer has one width. "kl, groups" is a file with a width for each group
of channels, of at most as many bytes as the one of "kl, layers". The columns after them are those of this file.

    python -m tools.bench.detection                                         # the trained detectors in models/
    python -m tools.bench.detection models/scenes rt-detr --bits 4          # some, at some widths

This generates the scenes (see tools/scenes.py) in a temporary folder. --calibration and --validation take other images
with boxes in COCO format, such as instances_val2017.json for a pretrained detector of transformers. Each row is printed
when its runs end.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

import lampq_onnx
from lampq_onnx.allocation.options import DEFAULTS, MAX_BITS
from lampq_onnx.artifacts import Report
from lampq_onnx.artifacts.report import Accuracy
from lampq_onnx.config.options import EffortName
from lampq_onnx.errors import LampqError
from lampq_onnx.runtime.environment import describe_environment

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tools.scenes import write_coco

SCENES = Path("models/scenes")
CALIBRATION_SEED, VALIDATION_SEED = 1, 2
"""Series of scenes that the training has not seen: it draws 0, and 3 to choose by."""

TRAINED = (SCENES, Path("models/scenes-rt-detr"), Path("models/scenes-detr"))
"""Folders of the detectors of the scenes."""

TRAINING = "python -m tools.train_detector yolos|rt-detr|conditional-detr --device cuda --output"
BASELINES = ("uniform", "lampq")
COLUMNS = (
    "detector", "W/A", "float AP", *BASELINES, "kl, layers", "kl, groups", "AP", "AP50", "AP75", "agreement",
    "SQNR, dB", "MB, layers", "MB, groups", "float MB", "speed",
)  # fmt: skip

app = typer.Typer(add_completion=False)


def require_model(model: str) -> None:
    """Exit with a message if a detector of the scenes is wanted and was not trained yet."""
    if Path(model) in TRAINED and not (Path(model) / "config.json").is_file():
        raise LampqError(f"there is no detector in {model}", hint=f"train it, minutes on a GPU: {TRAINING} {model}")


def row(model: str, setting: str, layers: Report, groups: Report) -> str:
    """One line of the table.

    Args:
        layers: of the run with one width for each layer, and its baselines.
        groups: of the run with a width for each group of channels.
    """
    own, size, times = groups.accuracy, groups.size, groups.latency
    drops = [drop(layers.baselines[name].accuracy) for name in BASELINES] + [drop(layers.accuracy)]
    scores = [percent(own.scores[name][1]) for name in ("AP50", "AP75")]
    sqnr = "exact" if own.logit_sqnr_db is None else f"{own.logit_sqnr_db:.1f}"
    low, high = times.speedup_quartiles
    cells = (
        Path(model).name, setting, percent(own.float_.top1), *drops, drop(own), percent(own.quantized.top1), *scores,
        f"{100 * own.agreement:.1f} %", sqnr,
        *(f"{count / 1e6:.3f}" for count in (layers.size.quantized_bytes, size.quantized_bytes)),
        f"{size.float_bytes / 1e6:.2f}", f"{times.speedup:.2f} [{low:.2f}, {high:.2f}]",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def drop(accuracy: Accuracy) -> str:
    return f"{accuracy.drop_points:.2f} ± {accuracy.standard_error_points:.2f}"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


@app.command()
def main(
    models: Annotated[list[str] | None, typer.Argument(help="Folders of transformers models, or float .onnx.")] = None,
    calibration: Annotated[Path | None, typer.Option(help="Images; default: generated scenes.")] = None,
    validation: Annotated[Path | None, typer.Option(help="COCO annotations; default: generated scenes.")] = None,
    bits: Annotated[str, typer.Option(help="Average weight bits, one run for each.")] = "8,6,4",
    activation_bits: Annotated[int, typer.Option(help="Width of every input.")] = 8,
    effort: Annotated[EffortName, typer.Option(help="Effort, as in quantize.")] = "balanced",
    calibration_images: Annotated[int, typer.Option(help="Number of scenes for calibration.")] = 128,
    wide_price: Annotated[float, typer.Option(help="Price of 16-bit inputs, as in quantize.")] = DEFAULTS.wide_price,
    validation_images: Annotated[int, typer.Option(help="Number of scenes for validation.")] = 500,
) -> None:
    """Print the precision of each file as a table."""
    try:
        chosen = models or [str(folder) for folder in TRAINED if (folder / "config.json").is_file()]
        for model in chosen:
            require_model(model)
        with tempfile.TemporaryDirectory(prefix="lampq-") as temporary:
            folder = Path(temporary)
            if calibration is None:
                calibration = write_coco(folder / "calibration", CALIBRATION_SEED, calibration_images)
            if validation is None:
                validation = write_coco(folder / "validation", VALIDATION_SEED, validation_images)
            print_table(chosen, calibration, validation, bits, activation_bits, effort, wide_price, folder)
    except LampqError as error:
        print(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        raise typer.Exit(1) from error


def print_table(
    models: list[str], calibration: Path, validation: Path, bits: str, activation_bits: int, effort: EffortName,
    wide_price: float, folder: Path,
) -> None:  # fmt: skip
    print(f"{describe_environment('').cpu}; effort {effort}")
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    for number, model in enumerate(models):
        for width in (float(part) for part in bits.split(",")):
            where = folder / f"{number}-{width:g}"
            common: dict[str, Any] = {
                "calibration": calibration, "validation": validation, "activation_bits": activation_bits,
                "effort": effort, "metric": "kl", "latency_runs": 30, "wide_price": wide_price,
            }  # fmt: skip
            layers = lampq_onnx.quantize(
                model, where / "layers", bits=width, granularity="layer", baseline=BASELINES, **common
            )
            groups = layers
            if width < MAX_BITS:
                limit = f"{layers.size.quantized_bytes} B"
                groups = lampq_onnx.quantize(model, where / "groups", max_size=limit, granularity="group", **common)
            print(row(model, f"{width:g}/{activation_bits}", layers, groups), flush=True)


if __name__ == "__main__":
    app()
