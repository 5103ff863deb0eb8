"""Files for onnxruntime's CUDA provider, checked on this CPU; tools/bench/cuda.py times them on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnxruntime as ort

from lampq_onnx.converter import inspect_model
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.runtime import layer_errors, open_runner
from lampq_onnx.runtime.engine import engine_for
from lampq_onnx.runtime.explain import explain_file
from lampq_onnx.targets import FLOAT, TARGETS, Packing
from tools.bench.targets.case import Case, Row

TARGET = TARGETS["onnxruntime-cuda"]
FILES: tuple[tuple[int, Packing], ...] = ((8, "exact"), (5, "exact"), (4, "exact"), (8, "native"), (4, "native"))
HERE = engine_for("auto", "auto", TARGET.name)
LAYER_IMAGES = 4


def rows(case: Case) -> Iterator[Row]:
    """A row for each file."""
    wanted = open_runner(case.float_file, threads=1)(case.images).argmax(-1)
    for bits, packing in FILES:
        path = case.file(TARGET, bits, FLOAT, packing)
        layers = inspect_model(load_model(path))
        explained = explain_file(path, case.images[:8], threads=1, runs=1, engine=HERE).layers
        packed = sum(layer.kernel == "MatMulNBits" for layer in explained)
        errors = layer_errors(path, layers, case.images[:LAYER_IMAGES], threads=1, engine=HERE)
        answers = open_runner(path, threads=1, engine=HERE)(case.images).argmax(-1)
        yield Row(
            f"onnxruntime {ort.__version__} on this CPU",
            f"{TARGET.name}, {packing}",
            f"W{bits}/Afloat",
            loads="yes",
            integer="none: unpacked when loaded" if packing == "exact" else f"{packed} of {len(layers)} (MatMulNBits)",
            worst=f"{max(errors.values()):.0e}",
            agreement=f"{100 * float(np.mean(answers == wanted)):.1f} % (n = {len(wanted)})",
            speed="not run: python -m tools.bench.cuda, on a GPU",
        )
