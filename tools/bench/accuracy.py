"""Measure the accuracy that `quantize` reaches on one model with several settings.

    python tools/bench/accuracy.py deit_tiny_patch16_224 --checkpoint deit_tiny.safetensors \\
        --calibration calibration/ --validation validation/ --settings 8/8,4/8,4/4-same --efforts fast,balanced

Every row is a whole run, with its checked file in onnxruntime. A setting is W/A: average weight bits and the width of
every input. W/A-same gives the weights and the input of a layer the same width, W on average. -synthetic and -noise
calibrate on images made from the model alone. Each row is printed when its run ends, so an interrupted table keeps its
finished rows. Files go to a temporary folder and are removed.

± is the standard error of the drop over the validation images, for one seed. The speedup is that of one image on one
thread, with quartiles, unless the --latency options say otherwise.
"""

from __future__ import annotations

import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

import lampq_onnx
from lampq_onnx.allocation import METRICS
from lampq_onnx.artifacts import Report
from lampq_onnx.cli.parameters import run_tool, with_options
from lampq_onnx.config.options import EffortName
from lampq_onnx.config.readers import MadeImages
from lampq_onnx.config.sections import Values
from lampq_onnx.config.values import section
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.runtime.environment import describe_environment

DIGITS = "digits"
SETTINGS = "8/8,6/8,4/8,3/8,6/6,4/4-same,8/8-synthetic,8/8-noise"
FORM = re.compile(r"(?P<weights>\d+(?:\.\d+)?)/(?P<inputs>\d+)(?P<same>-same)?(?:-(?P<images>synthetic|noise))?")


@dataclass(frozen=True)
class Setting:
    """Widths, and images if they are made from the model."""

    name: str
    bits: float
    activation_bits: int | Literal["same"]
    images: MadeImages | None


def parse_setting(text: str) -> Setting:
    """A setting from W/A, with -same, -synthetic or -noise.

    Raises:
        UsageError: anything else.
    """
    match = FORM.fullmatch(text.strip().replace(" ", "-"))
    if match is None:
        raise UsageError(f"cannot read the setting {text!r}", hint=f"Settings are W/A, as in {SETTINGS}.")
    bits, inputs = float(match["weights"]), int(match["inputs"])
    if match["same"] and bits != inputs:
        raise UsageError(f"{text}: with -same the inputs have the width of the weights; write {bits:g}/{bits:g}-same")
    made = next((word for word in get_args(MadeImages) if word == match["images"]), None)
    return Setting(match[0], bits, "same" if match["same"] else inputs, made)


def head(baselines: tuple[str, ...]) -> str:
    """First two lines of the table."""
    names = ["W/A", "effort", "MB", "drop", "agreement %", "SQNR dB", "KL", *(f"KL of {name}" for name in baselines)]
    names += ["speedup", "seconds", "average bits"]
    return f"| {' | '.join(names)} |\n{'|---' * len(names)}|"


def row(setting: Setting, effort: str, report: Report, seconds: float, baselines: tuple[str, ...]) -> str:
    """Measure one setting, and return its row."""
    accuracy, latency = report.accuracy, report.latency
    slow, fast = latency.speedup_quartiles
    cells = [
        setting.name,
        effort,
        f"{report.size.quantized_bytes / 1e6:.2f}",
        f"{accuracy.drop_points:.2f} ± {accuracy.standard_error_points:.2f}",
        f"{100 * accuracy.agreement:.1f}",
        "exact" if accuracy.logit_sqnr_db is None else f"{accuracy.logit_sqnr_db:.1f}",
        f"{accuracy.kl:.4f}",
        *(f"{report.baselines[name].accuracy.kl:.4f}" for name in baselines),
        f"{latency.speedup:.2f} ({slow:.2f}-{fast:.2f})",
        f"{seconds:.0f}",
        f"{report.bits.weight_average:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


@with_options("model", "images", "--baseline", "--granularity", "--latency-runs", "--latency-threads")
def main(
    *,
    model: Annotated[str, typer.Argument(help="A timm model name, or digits.")] = DIGITS,
    settings: Annotated[
        str, typer.Option(help="Settings, each as W/A, W/A-same, W/A-synthetic or W/A-noise.")
    ] = SETTINGS,
    efforts: Annotated[str, typer.Option(help="Efforts: any of fast, balanced, best.")] = "fast,balanced,best",
    values: Values,
) -> None:
    """Quantize one model under several settings and efforts."""
    chosen = [parse_setting(part) for part in settings.split(",")]
    wanted: list[EffortName] = [
        section("analysis", {"analysis": {"effort": e.strip()}}).effort for e in efforts.split(",")
    ]
    baselines: tuple[str, ...] = section("output", values).baselines
    for name in baselines:
        if name not in METRICS:
            raise UsageError(f"--baseline must be one of {', '.join(METRICS)}, not {name!r}")
    shared = {key: value for own in values.values() for key, value in own.items()}
    calibration = shared.pop("calibration", None)
    environment = describe_environment("none")
    versions = ", ".join(f"{name} {environment.versions[name]}" for name in ("onnxruntime", "torch", "timm"))
    seed = section("images", values).seed
    print(f"{model}, seed {seed}, {environment.cpu} ({', '.join(environment.cpu_flags)}), {environment.cores} cores")
    print(f"{time.strftime('%Y-%m-%d %H:%M')}, {versions}\n\n{head(baselines)}", flush=True)
    failed, last = 0, None
    for setting in chosen:
        for effort in wanted:
            start = time.perf_counter()
            try:
                with tempfile.TemporaryDirectory(prefix="lampq-") as folder:
                    last = lampq_onnx.quantize(
                        model,
                        Path(folder, "out"),
                        calibration=setting.images or calibration,
                        bits=setting.bits,
                        activation_bits=setting.activation_bits,
                        effort=effort,
                        resume=False,  # the seconds of the row are those of all the work
                        **shared,
                    )
            except LampqError as error:
                failed += 1
                print(f"| {setting.name} | {effort} | failed: {error.message} |", flush=True)
                continue
            print(row(setting, effort, last, time.perf_counter() - start, baselines), flush=True)
    if last is not None:
        print(f"\nn = {last.accuracy.samples}, target {last.environment.target}, ", end="")
        print(f"speedup of {last.latency.batch} image(s) on {last.latency.threads} thread(s)")
    if failed:
        raise LampqError(f"{failed} of {len(chosen) * len(wanted)} runs failed; the table says why")


if __name__ == "__main__":
    run_tool(main)
