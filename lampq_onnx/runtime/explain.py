"""Explain which kernel runs each linear layer of a file, its time, and why it is not an integer kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lampq_onnx.artifacts.not_done import NotDone
from lampq_onnx.artifacts.report import Latency
from lampq_onnx.converter.unapplied import unapplied
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.runtime.engine import ONNXRUNTIME, Engine
from lampq_onnx.runtime.layer_kernels import LayerKernel, places_of
from lampq_onnx.runtime.runtimes import described, runtime_of

PROFILE_RUNS = 10
NAMED = 8
"""Number of runs, and of named layers, for the explanation why a file is slow."""

_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "FakeQuantize", "Reorder", "Convert")


@dataclass(frozen=True)
class Explanation:
    """A file as a runtime executes it.

    Attributes:
        layers: linear layers in graph order.
        operators: operator of the executed graph -> microseconds, most expensive first.
        total_microseconds: sum over all operators.
        batch: images per run.
        threads: threads of the session.
        runs: number of measured runs.
        not_done: changes of the graph that the converter did not make in this file, with the reason.
        runtime: the runtime, its version, and its arithmetic beside integers.
    """

    layers: tuple[LayerKernel, ...]
    operators: Mapping[str, float]
    total_microseconds: float
    batch: int
    threads: int
    runs: int
    not_done: tuple[NotDone, ...] = ()
    runtime: str = ""


def explain_file(
    path: Path, images: npt.NDArray[np.float32], *, threads: int, runs: int, engine: Engine = ONNXRUNTIME
) -> Explanation:
    """Profile a file and find its layers in the executed graph.

    Args:
        path: an ONNX file with one image input, quantized or not.
        images: (batch, c, h, w).
        threads: threads of one operator.
        runs: number of measured runs.
        engine: what runs the file.

    Raises:
        LampqError: the file cannot be read or run.
    """
    model = load_model(path)
    runtime = runtime_of(engine.runtime)
    kernels = runtime.kernels(path, places_of(model), images, threads=threads, precision=engine.precision, runs=runs)
    return Explanation(
        layers=kernels.layers,
        operators=kernels.operators,
        total_microseconds=sum(kernels.operators.values()),
        batch=len(images),
        threads=threads,
        runs=runs,
        not_done=unapplied(model),
        runtime=described(engine),
    )


def slower_layers(quantized: Explanation, reference: Explanation) -> list[str]:
    """Describe the layers that cost more in the quantized file than in the float file, worst first."""
    before = {layer.name: layer.total for layer in reference.layers}
    found = [
        (layer.total - before[layer.name], layer)
        for layer in quantized.layers
        if layer.name in before and layer.total > before[layer.name]
    ]
    return [
        f"{layer.name} ({layer.kernel}, {layer.total:.0f} us against {layer.total - more:.0f} us)"
        for more, layer in sorted(found, key=lambda item: -item[0])
    ]


def slowness(
    reference: Path,
    quantized: Path,
    images: npt.NDArray[np.float32],
    latency: Latency,
    *,
    engine: Engine = ONNXRUNTIME,
) -> list[str]:
    """Explain why a quantized file is slower than the float file: profile both, and name the layers that cost more.

    Args:
        reference: the float file.
        quantized: the quantized file.
        images: (batch, c, h, w).
        latency: latency of both files on these images.
        engine: what runs both files.
    """
    before, after = (
        explain_file(path, images, threads=latency.threads, runs=min(latency.runs, PROFILE_RUNS), engine=engine)
        for path in (reference, quantized)
    )
    slow = slower_layers(after, before)
    found = f"the quantized file is slower than the float one ({latency.speedup:.2f}x). "
    if slow:
        count = f"{len(slow)} layers cost more, conversions included"
        return [f"{found}{count}{'; the slowest' if len(slow) > NAMED else ''}: {', '.join(slow[:NAMED])}"]
    conversions = sum(after.operators.get(operator, 0.0) for operator in _CONVERSIONS)
    return [f"{found}No layer costs more; conversions between types take {conversions:.0f} us in total"]
