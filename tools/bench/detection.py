"""Measure the box AP of detectors in float, with uniform bits, LampQ's metric and measured costs (kl), in onnxruntime.

The columns uniform, lampq, "kl, layers" and "kl, groups" are drops of box AP in points; ± is the standard error, from a
jackknife over images. In the first three every layer has one width. "kl, groups" is a file with a width for each group
of channels, of at most as many bytes as the one of "kl, layers". The columns after them are those of this file.

    python -m tools.bench.detection                                         # the trained detectors in models/
    python -m tools.bench.detection models/scenes rt-detr --bits 4          # some, at some widths
    python -m tools.bench.detection --jobs 6                                # six rows at a time

This generates the scenes (see tools/scenes.py) in a temporary folder. --calibration and --validation take other images
with boxes in COCO format, such as instances_val2017.json for a pretrained detector of transformers. Each row is printed
when its runs end. Speeds are shown if rows run one by one.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import lampq_onnx
from lampq_onnx.allocation.options import DEFAULTS, MAX_BITS
from lampq_onnx.artifacts import Report
from lampq_onnx.artifacts.report import Accuracy
from lampq_onnx.config.options import EffortName
from lampq_onnx.errors import LampqError
from lampq_onnx.runtime.environment import available_cores, describe_environment

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


@dataclass(frozen=True)
class Row:
    """A row of the table that is still to be measured.

    Attributes:
        model: folder or file of the detector.
        bits: average bits of a weight.
        folder: where its files go.
        options: of both runs, as `lampq_onnx.quantize` takes them.
        timed: whether the row ends with the speed.
    """

    model: str
    bits: float
    folder: Path
    options: dict[str, Any]
    timed: bool

    def measure(self) -> str:
        """Quantize with one width for each layer, then with groups in as many bytes, and return the line."""
        layers = lampq_onnx.quantize(
            self.model, self.folder / "layers", bits=self.bits, granularity="layer", baseline=BASELINES, **self.options
        )
        groups = layers
        if self.bits < MAX_BITS:
            limit = f"{layers.size.quantized_bytes} B"
            groups = lampq_onnx.quantize(
                self.model, self.folder / "groups", max_size=limit, granularity="group", **self.options
            )
        return self.line(layers, groups)

    def line(self, layers: Report, groups: Report) -> str:
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
            Path(self.model).name, f"{self.bits:g}/{self.options['activation_bits']}", percent(own.float_.top1), *drops,
            drop(own), percent(own.quantized.top1), *scores, f"{100 * own.agreement:.1f} %", sqnr,
            *(f"{count / 1e6:.3f}" for count in (layers.size.quantized_bytes, size.quantized_bytes)),
            f"{size.float_bytes / 1e6:.2f}", f"{times.speedup:.2f} [{low:.2f}, {high:.2f}]",
        )  # fmt: skip
        return line(cells if self.timed else cells[:-1])


def line(cells: Iterable[str]) -> str:
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
    device: Annotated[str, typer.Option(help="Torch device, as in quantize.")] = "cpu",
    jobs: Annotated[int, typer.Option(min=1, help="Rows that are measured at the same time.")] = 1,
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
            options: dict[str, Any] = {
                "calibration": calibration, "validation": validation, "activation_bits": activation_bits,
                "effort": effort, "metric": "kl", "latency_runs": 30, "wide_price": wide_price, "device": device,
            }  # fmt: skip
            if jobs > 1:
                options["threads"] = max(1, available_cores() // jobs)
            rows = [
                Row(model, width, folder / f"{number}-{width:g}", options, timed=jobs == 1)
                for number, model in enumerate(chosen)
                for width in (float(part) for part in bits.split(","))
            ]
            print(f"{described(options)}; {images_in(calibration)} and {images_in(validation)} images")
            failed = print_table(rows, jobs)
            if failed:
                raise LampqError(f"{failed} of {len(rows)} rows failed; the table says why")
    except LampqError as error:
        print(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        raise typer.Exit(1) from error


def described(options: dict[str, Any]) -> str:
    """The machine, the versions, the day and the options that all rows share."""
    here = describe_environment("none")
    versions = (f"{name} {here.versions[name]}" for name in ("onnxruntime", "torch"))
    return (
        f"{here.cpu}, {', '.join(versions)}, {time.strftime('%Y-%m-%d')}; effort {options['effort']}, "
        f"wide price {options['wide_price']:g}"
    )


def images_in(source: Path) -> str:
    """How many images a file of annotations has; of other sources, the name."""
    if source.suffix != ".json":
        return f"{source.name}'s"
    return str(len(json.loads(source.read_text(encoding="utf-8"))["images"]))


def print_table(rows: list[Row], jobs: int) -> int:
    """Print each row when it is done; return how many failed."""
    columns = COLUMNS if jobs == 1 else COLUMNS[:-1]
    print(f"{line(columns)}\n|{'---|' * len(columns)}", flush=True)
    failed = 0
    for text, fine in map(measured, rows) if jobs == 1 else side_by_side(rows, jobs):
        print(text, flush=True)
        failed += not fine
    return failed


def side_by_side(rows: list[Row], jobs: int) -> Iterator[tuple[str, bool]]:
    """Measure the rows in processes, narrow widths first, which take longest."""
    os.environ["OMP_NUM_THREADS"] = str(rows[0].options["threads"])  # read when the processes import PyTorch
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(measured, row) for row in sorted(rows, key=lambda row: row.bits)]):
            yield done.result()


def measured(row: Row) -> tuple[str, bool]:
    """The line of a row, or why there is none; whether there is one."""
    try:
        return row.measure(), True
    except LampqError as error:
        return line((Path(row.model).name, f"{row.bits:g}", f"failed: {error.message}")), False


if __name__ == "__main__":
    app()
