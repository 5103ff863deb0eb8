"""What an older CPU says of itself, and its kernels where this machine can hide the newer ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.bench.older_cpu import as_older

TOLD = "model name\t: A CPU\nflags\t\t: fpu avx2 avx512f avx_vnni gfni avx512_vnni amx_tile amx_int8\nbugs\t\t: x\n"


def test_newer_instructions_are_not_told() -> None:
    assert as_older(TOLD).splitlines() == [
        "model name\t: A CPU with AVX-512, VNNI and AMX hidden",
        "flags\t\t: fpu avx2 gfni ",
        "bugs\t\t: x",
    ]


def can_hide() -> bool:
    told = Path("/proc/cpuinfo")
    return told.exists() and "cpuid_fault" in told.read_text() and shutil.which("cc") is not None


@pytest.mark.skipif(not can_hide(), reason="needs Linux on a CPU with cpuid_fault, and a C compiler")
def test_target_and_kernels_are_those_of_the_older_cpu() -> None:
    code = (
        "from lampq_onnx.runtime.environment import cpu_flags, target_here; "
        "print(target_here('auto').name, *cpu_flags())"
    )
    command = [sys.executable, "-m", "tools.bench.older_cpu", "--", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.split() == ["onnxruntime-x86-avx2", "avx2"]
