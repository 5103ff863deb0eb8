"""TensorRT-RTX's builder, which needs no GPU. `LAMPQ_TENSORRT_PYTHON` names an interpreter that has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec

from lampq_onnx.targets import TARGETS
from tools.bench.targets.case import Case, Row, not_run

RUNTIME = "builder of TensorRT-RTX"
FILES = (("tensorrt", 8), ("tensorrt", 4), ("tensorrt-fp8", 8), ("onnxruntime-x86-vnni", 8))


def rows(case: Case) -> Iterator[Row]:
    """A row for each file."""
    python = sys.executable if find_spec("tensorrt_rtx_bindings") else os.environ.get("LAMPQ_TENSORRT_PYTHON")
    if python is None:
        yield not_run(
            RUNTIME, "tensorrt", "tensorrt-rtx is not installed, and LAMPQ_TENSORRT_PYTHON names no interpreter"
        )
        return
    files = [str(case.file(TARGETS[target], weights, 8)) for target, weights in FILES]
    done = subprocess.run(
        [python, "-m", "tools.bench.tensorrt", "--json", *files], capture_output=True, text=True, check=False
    )
    if done.returncode:
        yield Row(RUNTIME, "tensorrt", "", loads=f"failed: {done.stderr.strip().splitlines()[-1][:150]}")
        return
    for (target, weights), row in zip(FILES, json.loads(done.stdout.splitlines()[-1]), strict=True):
        form = f"W{weights}/A8"
        if row["refused"]:
            why = row["refused"].replace(f"{case.folder}/", "").replace("|", "/")
            yield Row(row["runtime"], target, form, loads=f"refused: {why[:300]}")
            continue
        kinds = list(row["products"].values())
        yield Row(
            row["runtime"],
            target,
            form,
            loads="yes, an engine is built",
            integer=f"{sum(kind in ('Int8', 'FP8') for kind in kinds)} of {len(kinds)} ({kinds[0]})",
            speed="not run: no GPU of compute capability 8.0, 8.6, 8.9 or 12",
        )
