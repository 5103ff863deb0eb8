"""onnxruntime's QNN provider on the software HTP of its wheel. `LAMPQ_QNN_PYTHON` names an interpreter that has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np

from lampq_onnx.targets import TARGETS
from tools.bench.targets.case import Case, Row, not_run

RUNTIME, TARGET = "onnxruntime-qnn, software HTP", TARGETS["onnxruntime-qnn"]
FORMS = ((8, 8), (8, 16), (4, 8), (4, 16))
IMAGES = 32


def rows(case: Case) -> Iterator[Row]:
    """A row for each pair of widths."""
    python = sys.executable if find_spec("onnxruntime_qnn") else os.environ.get("LAMPQ_QNN_PYTHON")
    if python is None:
        yield not_run(
            RUNTIME, TARGET.name, "onnxruntime-qnn is not installed, and LAMPQ_QNN_PYTHON names no interpreter"
        )
        return
    np.save(case.folder / "qnn.npy", case.images[:IMAGES])
    files = [str(case.file(TARGET, weights, inputs)) for weights, inputs in FORMS]
    command = [python, "-m", "tools.bench.qnn", "--json", "--layers", "--images", str(case.folder / "qnn.npy")]
    command += ["--count", str(IMAGES), "--float", str(case.float_file)]
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    if done.returncode:
        yield Row(RUNTIME, TARGET.name, "", loads=f"failed: {done.stderr.strip().splitlines()[-1][:150]}")
        return
    for (weights, inputs), row in zip(FORMS, json.loads(done.stdout.splitlines()[-1]), strict=True):
        form = f"W{weights}/A{inputs}"
        if row["refused"]:
            yield Row(row["runtime"], TARGET.name, form, loads=f"refused: {row['refused'][:150]}")
            continue
        on_cpu = sum(sum(own.values()) for provider, own in row["placed"].items() if provider.startswith("CPU"))
        layers = len(row["layers"])
        yield Row(
            row["runtime"],
            TARGET.name,
            form,
            loads=f"yes, {row['partitions']} partition(s), {on_cpu} node(s) on the CPU",
            integer=f"{layers - len(row['dequantized'])} of {layers}",
            worst=f"{max(row['layers'].values()):.0e}",
            agreement=f"{100 * row['same_as_float']:.1f} % (n = {row['images']})",
            speed="not measured: the HTP is software",
        )
