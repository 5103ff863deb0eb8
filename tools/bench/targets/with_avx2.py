"""The targets of x86 CPUs with AVX2 and without AVX-512 and VNNI, under emulation on a newer one: never timed.

`tools.bench.older_cpu` times them, on an Intel CPU that lets CPUID fault.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec

from lampq_onnx.runtime import cpu_flags
from lampq_onnx.targets import TARGETS
from tools.bench.arm64 import run_kit
from tools.bench.targets.case import Case, Row, not_run
from tools.bench.targets.emulated import FORMS, kit_of, row_of

QEMU, CPU = "qemu-x86_64-static", "Haswell"
WORDS = f"{CPU} (AVX2, no VNNI)"


def rows(case: Case) -> Iterator[Row]:
    """A row for each target and pair of widths; none on such a CPU itself, which runs the files."""
    if not {"avx512_vnni", "avx_vnni"} & set(cpu_flags()):
        return
    for target in (target for target in TARGETS.values() if target.name.endswith("avx2")):
        if shutil.which(QEMU) is None or (target.runner == "openvino" and find_spec("openvino") is None):
            yield not_run(target.runtime, target.name, f"this CPU has VNNI, and {QEMU} or the runtime is missing")
            continue
        for form in FORMS:
            with kit_of(case, target, *form) as kit:
                found = run_kit([QEMU, "-cpu", CPU, sys.executable], kit, str(target.runner))
            yield row_of(target, form, WORDS, found)
