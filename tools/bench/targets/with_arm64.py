"""The targets of arm64 under emulation, see `tools.bench.arm64`: never timed.

`LAMPQ_ARM64_ROOT` names a root folder of arm64 with Python, and `LAMPQ_ARM64_SITE` a folder with its packages.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lampq_onnx.targets import TARGETS
from tools.bench.arm64 import BOUND, CPUS, QEMU, Cpu, integer_layers, make_kit, row_of
from tools.bench.targets.case import Case, Row, not_run

FORMS = ((8, 8), (5, 8))


def rows(case: Case) -> Iterator[Row]:
    """A row for each target, pair of widths and CPU; none on such a CPU itself, which runs the files."""
    if platform.machine() in ("arm64", "aarch64"):
        return
    root, site = (os.environ.get(f"LAMPQ_ARM64_{name}") for name in ("ROOT", "SITE"))
    for target in (target for target in TARGETS.values() if target.name.endswith("arm64")):
        if root is None or site is None or shutil.which(QEMU) is None:
            why = f"this CPU is {platform.machine()}, and LAMPQ_ARM64_ROOT and LAMPQ_ARM64_SITE name nothing to emulate"
            yield not_run(target.runtime, target.name, why)
            continue
        for weight_bits, activation_bits in FORMS:
            with tempfile.TemporaryDirectory(prefix="lampq-") as room:
                folder = Path(room)
                shutil.copy(case.file(target, weight_bits, activation_bits), folder / "model.onnx")
                shutil.copy(case.float_file, folder / "float.onnx")
                kit = folder / "kit"
                make_kit(folder / "model.onnx", case.validation, kit, str(target.runner))
                for cpu in CPUS:
                    found = row_of(cpu, kit, Path(root), Path(site), str(target.runner))
                    yield _row(target.name, f"W{weight_bits}/A{activation_bits}", target.runtime, cpu, found)


def _row(target: str, form: str, words: str, cpu: Cpu, found: dict) -> Row:
    emulated = f"emulated {cpu.name} ({cpu.words})"
    if "failed" in found:
        return Row(f"{words}, {emulated}", target, form, loads=f"failed: {found['failed'][:150]}".replace("|", "/"))
    runtime = f"{found['runtime'] if 'runtime' in found else 'onnxruntime ' + found['onnxruntime']}, {emulated}"
    errors = [layer["error"] for layer in found["layers"].values()]
    exact = int(np.sum(np.array(errors) <= BOUND))
    return Row(
        runtime,
        target,
        form,
        loads="yes" if exact == len(errors) else f"yes, wrong: {len(errors) - exact} layers are not exact",
        integer=f"{integer_layers(found)} of {len(errors)}",
        worst=f"{max(errors):.0e}",
        agreement=f"{100 * found['same']:.1f} % (n = {found['images']})",
        speed="exact, never timed" if exact == len(errors) else "never timed",
    )
