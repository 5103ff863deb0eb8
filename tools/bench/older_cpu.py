"""Run a command as on an x86 CPU with AVX2 and without AVX-512, VNNI and AMX, on a newer Intel CPU under Linux.

    python -m tools.bench.older_cpu -- python -m tools.bench.runtime speed FOLDER
    python -m tools.bench.older_cpu -- python -m pytest -p no:faulthandler tests/runtime

Libraries that choose their kernels by CPUID (onnxruntime, PyTorch, OpenBLAS) then use those of the older CPU.
/proc/cpuinfo says the same, so `--target auto` and the machine in every table follow it too. Nothing is emulated: times
are those of the older kernels on this CPU. This needs a C compiler, and cpuid_fault in /proc/cpuinfo
(hide_instructions.c says how it works).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("hide_instructions.c")

HIDDEN = re.compile(r"\b(avx512\w*|avx_vnni\w*|avx_ifma|avx_ne_convert|avx10\w*|amx_\w+)[ ]?")
"""Flags of /proc/cpuinfo that the older CPU lacks."""

GLIBC = "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX512CD,-AVX512DQ,-AVX512ER,-AVX512PF"
"""The C library chooses its copies of memory before anything can be loaded."""

CHECK = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).instructions_hidden() != 1)"


def main() -> None:
    command = sys.argv[1:]
    if command[:1] == ["--"]:
        command = command[1:]
    if not command or command[0] in ("-h", "--help"):
        raise SystemExit(__doc__)
    told = Path("/proc/cpuinfo")
    if not told.exists() or not re.search(r"\bcpuid_fault\b", told.read_text()):
        raise SystemExit("older_cpu: this CPU or kernel does not let CPUID fault (no cpuid_fault in /proc/cpuinfo)")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "hide_instructions.so")
        subprocess.run(
            ["cc", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"], check=True
        )
        older = Path(folder, "cpuinfo")
        older.write_text(as_older(told.read_text()))
        environment = {
            **os.environ,
            "LD_PRELOAD": " ".join(filter(None, [str(library), os.environ.get("LD_PRELOAD")])),
            "LAMPQ_CPUINFO": str(older),
            "GLIBC_TUNABLES": ":".join(filter(None, [GLIBC, os.environ.get("GLIBC_TUNABLES")])),
        }
        if subprocess.run([sys.executable, "-c", CHECK, str(library)], env=environment, check=False).returncode:
            raise SystemExit("older_cpu: CPUID still shows the newer instructions")
        raise SystemExit(subprocess.run(command, env=environment, check=False).returncode)


def as_older(told: str) -> str:
    """The text of /proc/cpuinfo without the newer instructions, and with a model name that says so."""
    without = HIDDEN.sub("", told)
    return re.sub(r"(model name\s*: .*)", r"\1 with AVX-512, VNNI and AMX hidden", without)


if __name__ == "__main__":
    main()
