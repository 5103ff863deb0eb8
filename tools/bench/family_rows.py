"""Make one row of the table of families: run a model through all stages at two widths, and record the result."""

from __future__ import annotations

import copy
import re
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from lampq_onnx.artifacts import Report
from lampq_onnx.artifacts.gates import GateLimits
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.stages import stages_of
from lampq_onnx.data import BatchedImages
from lampq_onnx.disk.files import FLOAT_FILE
from lampq_onnx.disk.records import Record
from lampq_onnx.errors import LampqError
from lampq_onnx.evaluation.gates import EXCESS_BOUND, EXCESS_IMAGES
from lampq_onnx.frontend.checkup import EXPORT_BOUND
from lampq_onnx.frontend.session import Frontend
from lampq_onnx.frontend.shared.kept import NOT_KEPT
from lampq_onnx.frontend.shared.loaded import LoadedModel
from lampq_onnx.frontend.shared.threads import torch_threads
from lampq_onnx.running.progress import NO_PROGRESS, Clock
from lampq_onnx.runtime import open_runner
from lampq_onnx.runtime.environment import target_here
from lampq_onnx.workflow.output import QuantizedOutput
from lampq_onnx.workflow.search import Search, measure
from tools.bench.family import Family, noise_images

CALIBRATION_IMAGES = 8
BATCH = 8
WIDTHS = (8, 4)
"""Weight bits; inputs have 8."""

FLOAT_INPUT = "only the input, of a pointwise convolution"
"""What stays in float of layers whose weights are quantized."""

LEAST_SPREAD = 0.02
"""Outputs that vary less from image to image than this share of their size show nothing."""


_FOLDER = re.compile(r"\S*lampq-[^\s/]*/model")
"""The temporary folder of a model of transformers, which stands for its name."""


class Width(Record):
    """One quantized file of a row.

    Attributes:
        layer_error: largest relative error of a layer, onnxruntime's kernel against reference arithmetic.
        excess: error to float of the file over that of reference arithmetic, minus 1.
        simulation_excess: the same of the simulation in PyTorch.
        error: to float, relative (L2).
        size: bytes over those of the float file.
        speedup: time of the float file over its own, batch 1: median and quartiles.
    """

    layer_error: float
    excess: float
    simulation_excess: float
    error: float
    size: float
    speedup: tuple[float, float, float]


class Row(Record):
    """The figures of a family in the table.

    Attributes:
        reason: why it is not done; the tool's own words where it refuses.
        task: what its outputs are judged as.
        layers: type -> layers that are quantized.
        share: weights in those layers, of all parameters.
        skipped: reason -> layers that stay in float for it.
        parity: relative difference (L2) of outputs, PyTorch and the equalized float file in onnxruntime.
        spread: of the outputs over images, relative to their size.
        widths: weight bits -> figures.
        problems: figures out of bounds.
        seconds: from start to end.
        cpu_seconds: of all processors, with the start of the process.
        where: the machine and the versions.
    """

    family: str
    model: str
    arguments: dict[str, Any]
    status: Literal["done", "refused", "failed"]
    reason: str = ""
    task: str = ""
    layers: dict[str, int] = Field(default_factory=dict)
    share: float = 0.0
    skipped: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    parity: float = 0.0
    spread: float = 0.0
    widths: dict[int, Width] = Field(default_factory=dict)
    problems: tuple[str, ...] = ()
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    where: str = ""


def measure_family(family: Family, *, seed: int, threads: int, runs: int) -> Row:
    """Quantize the family's model to both widths; a refusal is a row as well.

    Args:
        runs: timed rounds.
    """
    start = time.perf_counter()
    arguments = {} if family.config else dict(family.arguments)
    facts = {"family": family.name, "model": family.model, "arguments": arguments}
    try:
        with tempfile.TemporaryDirectory(prefix="lampq-") as room, torch_threads(threads):
            row = Row(**facts, **_measured(family, Path(room), seed, threads, runs))
    except LampqError as error:
        row = Row(**facts, status="refused", reason=_FOLDER.sub(family.name, str(error)))
    return row.model_copy(update={"seconds": time.perf_counter() - start})


def unexpected(row: Row, family: Family) -> str:
    """Describe what is wrong with a row; empty if nothing is."""
    if row.status == "refused":
        expected = bool(family.refused) and family.refused in row.reason
        return "" if expected else f"refused: {row.reason}"
    if row.status == "failed":
        return row.reason
    if family.refused:
        return f"it is done, where a refusal was expected: {family.refused}"
    return "; ".join(row.problems)


def _measured(family: Family, room: Path, seed: int, threads: int, runs: int) -> dict[str, object]:
    recipe = Recipe.build(
        {
            "model": {"name": family.model},
            "allocation": {"candidates": WIDTHS, "wide_price": float("inf")},
            "analysis": {"alpha_samples": 1},
            "rounding": {"method": "nearest"},
            "update": {"rounds": 0},
            "output": {"threads": threads, "latency_runs": runs},
        }
    )
    recipe = recipe.model_copy(
        update={
            "analysis": recipe.analysis.model_copy(update={"effort": "fast"}),
            "rounding": recipe.rounding.model_copy(update={"effort": "fast"}),
        }
    )
    clock = Clock(NO_PROGRESS)
    loaded = family.load(room, seed)
    # What transformers returns for other inputs than images is not an answer of the loaded module.
    original = copy.deepcopy(loaded.module) if family.config else family.build(seed)
    pre = loaded.preprocessing
    shape = (pre.channels, *pre.size)
    checked = noise_images(EXCESS_IMAGES, shape, seed + 1)
    wanted = torch.cat([original(batch) for batch in checked.split(BATCH)]).numpy().astype(np.float64)
    labels = np.zeros(len(checked), np.int64)
    calibration = BatchedImages(noise_images(CALIBRATION_IMAGES, shape, seed).split(BATCH), pre)
    pairs = zip(checked.split(BATCH), np.split(labels, len(labels) // BATCH), strict=True)
    # Only classification has a label for each image.
    validation = BatchedImages(pairs if loaded.task.kind == "classification" else checked.split(BATCH), pre)
    frontend = Frontend(loaded)
    found = _recognized(frontend, loaded)
    target = target_here("auto")
    widths: dict[int, Width] = {}
    problems: list[str] = []
    with calibration as crops, validation as images:
        frontend.measure_spread(crops)
        sensitivities = measure(frontend, crops, recipe.analysis, recipe.rounding, seed=seed, clock=clock)
        output = QuantizedOutput(frontend, crops, images, recipe.output, target, threads, room, clock)
        run = open_runner(room / FLOAT_FILE, threads=threads, answers=loaded.task.outputs)
        parity = _relative(np.concatenate([run(batch.numpy()) for batch in checked.split(BATCH)]), wanted)
        for bits in WIDTHS:
            own = recipe.model_copy(update={"allocation": recipe.allocation.model_copy(update={"bits": float(bits)})})
            search = Search(frontend, crops, own, stages_of(own, target), NOT_KEPT, clock)
            rounded = search.decide(sensitivities).rounded
            report = output.run(rounded, sensitivities, {}, GateLimits())
            widths[bits] = _width(report)
            problems += [f"W{bits}A8: {problem}" for problem in _outside(report)]
    if not parity <= EXPORT_BOUND:
        problems.append(f"PyTorch and the float file differ by {parity:.1e} (bound {EXPORT_BOUND:.0e})")
    spread = _relative(wanted, np.broadcast_to(wanted.mean(0), wanted.shape))
    if not spread >= LEAST_SPREAD:
        problems.append(f"outputs vary by {spread:.1e} from image to image: the row shows nothing")
    return {
        **found, "status": "done", "parity": parity, "spread": spread, "widths": widths, "problems": tuple(problems),
    }  # fmt: skip


def _recognized(frontend: Frontend, loaded: LoadedModel) -> dict[str, object]:
    layers = frontend.exported.layers
    reasons: dict[str, list[str]] = {}
    for name, reason in frontend.exported.skipped.items():
        reasons.setdefault(reason, []).append(name)
    for layer in layers:
        if layer.float_input:
            reasons.setdefault(FLOAT_INPUT, []).append(layer.name)
    everything = sum(p.numel() for p in loaded.module.parameters())
    return {
        "task": loaded.task.kind,
        "layers": dict(Counter(layer.type for layer in layers)),
        "share": sum(layer.parameters for layer in layers) / everything,
        "skipped": {reason: tuple(names) for reason, names in reasons.items()},
    }


def _width(report: Report) -> Width:
    fidelity, sqnr = report.fidelity, report.accuracy.logit_sqnr_db
    assert fidelity.simulation_excess is not None
    assert fidelity.layer_max is not None
    assert fidelity.excess_error is not None
    low, high = report.latency.speedup_quartiles
    return Width(
        layer_error=fidelity.layer_max,
        excess=fidelity.excess_error,
        simulation_excess=fidelity.simulation_excess,
        error=0.0 if sqnr is None else 10 ** (-sqnr / 20),
        size=report.size.quantized_bytes / report.size.float_bytes,
        speedup=(report.latency.speedup, low, high),
    )


def _outside(report: Report) -> list[str]:
    problems = [problem.message for problem in report.problems]
    excess = report.fidelity.simulation_excess
    if excess is None or not abs(excess) <= EXCESS_BOUND:
        problems.append(f"the simulation's error differs by {excess} (bound {EXCESS_BOUND})")
    return problems


def _relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
