"""Runtimes of other projects, each in an environment of its own: right, refused or wrong.

`LAMPQ_MNN_PYTHON`, `LAMPQ_OPENCV_PYTHON`, `LAMPQ_IREE_PYTHON`, `LAMPQ_TVM_PYTHON`, `LAMPQ_TRACT_PYTHON` and
`LAMPQ_LITERT_PYTHON` name the interpreters of those environments. No target is made for these runtimes: the files are
those of other targets. LiteRT's needs onnx2tf beside ai-edge-litert, and Python 3.12.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from lampq_onnx.graph.model_file import load_model, save_model
from lampq_onnx.runtime import open_runner
from lampq_onnx.targets import TARGETS, Packing
from tools.bench.targets.case import Case, Row, not_run

READER = Path(__file__).with_name("reader.py")
IMAGES, SECONDS = 8, 300
RUNTIMES = ("mnn", "opencv", "iree", "tvm", "tract", "litert")

FILES: tuple[tuple[str, int, int, Packing], ...] = (
    ("onnxruntime-arm64", 8, 8, "exact"),
    ("onnxruntime-arm64", 5, 8, "exact"),
    ("onnxruntime-arm64", 5, 8, "container"),
    ("onnxruntime-arm64", 4, 4, "exact"),
    ("onnxruntime-arm64", 4, 8, "native"),
    ("onnxruntime-x86-avx2", 4, 8, "exact"),
    ("onnxruntime-x86-vnni", 4, 8, "exact"),
    ("tensorrt", 8, 8, "container"),
)
"""Target, bits of the weights, bits of the inputs, storage."""

WRONG = 0.05
"""Relative error of the outputs above which a runtime is wrong. Values on a rounding boundary fall to either side,
which moves the outputs of two exact runtimes apart by some percent of the error of quantization. A runtime that does
not round the inputs of the layers at all is right as well, and the row says so."""


def rows(case: Case) -> Iterator[Row]:
    """A row for each runtime and file."""
    for name in RUNTIMES:
        variable = f"LAMPQ_{name.upper()}_PYTHON"
        python = os.environ.get(variable)
        if python is None:
            yield not_run(name, "of other runtimes", f"{variable} names no interpreter")
            continue
        for target, bits, inputs, packing in FILES:
            # These runtimes compute in float32 beside the products.
            path = case.file(dataclasses.replace(TARGETS[target], half=False), bits, inputs, packing)
            yield row_of(case, name, python, path, Row(name, f"{target}, {packing}", f"W{bits}/A{inputs}"))


def row_of(case: Case, name: str, python: str, path: Path, row: Row) -> Row:
    """What a runtime answers, against the plain QDQ arithmetic of the file."""
    images, answers = case.images[:IMAGES], case.folder / "answers.npy"
    np.save(case.folder / "images.npy", images)
    answers.unlink(missing_ok=True)
    command = [python, str(READER), name, str(path), str(case.folder / "images.npy"), str(answers)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, env=_plain())
    except subprocess.TimeoutExpired:
        return _with(row, row.runtime, f"refused: no answer within {SECONDS} s")
    if done.returncode or not answers.is_file():
        said = [text for text in done.stderr.strip().splitlines() if text.strip()]
        why = said[-1] if said else f"exit code {done.returncode}"
        return _with(row, row.runtime, f"refused: {why[:150].replace('|', '/')}")
    found = np.load(answers)
    wanted = _plain_answers(path, images)
    if found.shape != wanted.shape:
        return _with(row, done.stdout.splitlines()[-1], f"yes, wrong: its answers have the shape {found.shape}")
    rounded = path.with_suffix(".floats.onnx")
    save_model(with_float_inputs(load_model(path)), rounded)
    error, other = (_relative(found, one) for one in (wanted, _plain_answers(rounded, images)))
    words = f"right: error {error:.0e}" if error < WRONG else f"wrong: error {error:.0e}"
    if other < min(error, WRONG):
        words = f"right, but with inputs that are not rounded: error {other:.0e} ({error:.0e} to the file's arithmetic)"
    same = float(np.mean(found.argmax(-1) == wanted.argmax(-1)))
    return _with(row, done.stdout.splitlines()[-1], f"yes, {words}", f"{100 * same:.0f} % (n = {len(images)})")


def with_float_inputs(model: ir.Model) -> ir.Model:
    """Take QuantizeLinear and DequantizeLinear away from the inputs of the layers; narrow ones keep their Clip."""
    for node in list(model.graph):
        before = node.inputs[0].producer() if node.op_type == "DequantizeLinear" and node.inputs[0] else None
        if before is not None and before.op_type == "QuantizeLinear" and before.inputs[0] is not None:
            node.outputs[0].replace_all_uses_with(before.inputs[0])
    RemoveUnusedNodesPass()(model)
    return model


def _plain_answers(path: Path, images: np.ndarray) -> np.ndarray:
    answers: np.ndarray = open_runner(path, threads=1, optimize=False)(images).reshape(len(images), -1)
    return answers


def _relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def _with(row: Row, runtime: str, loads: str, agreement: str = "") -> Row:
    return Row(runtime, row.target, row.form, loads=loads, agreement=agreement)


def _plain() -> dict[str, str]:
    """The environment without this project's path: the interpreter has its own packages."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
