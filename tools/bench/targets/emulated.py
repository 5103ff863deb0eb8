"""Files that run on emulated CPUs: the kit of `lampq-onnx bench` for a target, and the row of what it measures."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lampq_onnx.targets import Target
from tools.bench.arm64 import BOUND, integer_layers, make_kit
from tools.bench.targets.case import Case, Row

FORMS = ((8, 8), (5, 8))


@contextmanager
def kit_of(case: Case, target: Target, weight_bits: int, activation_bits: int) -> Iterator[Path]:
    """The kit of a target's file, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="lampq-") as room:
        folder = Path(room)
        shutil.copy(case.file(target, weight_bits, activation_bits), folder / "model.onnx")
        shutil.copy(case.float_file, folder / "float.onnx")
        make_kit(folder / "model.onnx", case.validation, folder / "kit", str(target.runner))
        yield folder / "kit"


def row_of(target: Target, form: tuple[int, int], cpu: str, found: dict[str, Any]) -> Row:
    """The row of a kit that ran on an emulated CPU."""
    emulated, widths = f"emulated {cpu}", f"W{form[0]}/A{form[1]}"
    if "failed" in found:
        why = f"failed: {found['failed'][:150]}".replace("|", "/")
        return Row(f"{target.runtime}, {emulated}", target.name, widths, loads=why)
    runtime = f"{found['runtime'] if 'runtime' in found else 'onnxruntime ' + found['onnxruntime']}, {emulated}"
    errors = [layer["error"] for layer in found["layers"].values()]
    exact = int(np.sum(np.array(errors) <= BOUND))
    return Row(
        runtime,
        target.name,
        widths,
        loads="yes" if exact == len(errors) else f"yes, wrong: {len(errors) - exact} layers are not exact",
        integer=f"{integer_layers(found)} of {len(errors)}",
        worst=f"{max(errors):.0e}",
        agreement=f"{100 * found['same']:.1f} % (n = {found['images']})",
        speed="exact, never timed" if exact == len(errors) else "never timed",
    )
