"""Versions, and the CPU instruction sets that decide which kernels run."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

from lampq_onnx.artifacts.report import Environment
from lampq_onnx.targets import Target, target_for

PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "torch", "timm", "pulp", "highspy")

KERNEL_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""CPU flags as Linux and py-cpuinfo spell them."""


LINUX = Path("/proc/cpuinfo")
"""What Linux says of each core: lines of a name, a colon and a value."""


@cache
def _cpu() -> tuple[str, tuple[str, ...]]:
    brand, flags = _from_linux() or _from_cpuinfo()
    return brand, tuple(flag for flag in KERNEL_FLAGS if flag in flags)


def _from_linux() -> tuple[str, set[str]] | None:
    """Brand and flags of the first core, if Linux says both: on ARM it names no brand."""
    if not LINUX.is_file():
        return None
    lines = (line.partition(":") for line in LINUX.read_text(encoding="utf-8", errors="replace").splitlines())
    told: dict[str, str] = {}
    for name, _, value in lines:
        told.setdefault(name.strip(), value.strip())
    if not told.get("model name") or "flags" not in told:
        return None
    return " ".join(told["model name"].split()), set(told["flags"].split())


def _from_cpuinfo() -> tuple[str, set[str]]:
    """The same on other systems. It takes a second: processes of its own ask the processor and wait."""
    import cpuinfo  # noqa: PLC0415 -- only where it is needed

    info = cpuinfo.get_cpu_info()
    return str(info.get("brand_raw", platform.processor() or platform.machine())), set(info.get("flags", ()))


def cpu_name() -> str:
    """Return the brand name that the CPU reports."""
    return _cpu()[0]


def cpu_flags() -> tuple[str, ...]:
    """Return the flags of KERNEL_FLAGS that this CPU has."""
    return _cpu()[1]


def machine() -> str:
    """Return the architecture, as in platform.machine()."""
    return platform.machine()


def target_here(name: str) -> Target:
    """Return the target called ``name``; `auto` is this machine.

    Raises:
        UsageError: the name is unknown.
    """
    return target_for(name, machine(), cpu_flags())


def available_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def own_cores() -> int:
    """Count the cores for this process: torchrun's processes on this machine share the available ones evenly."""
    return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1))


def describe_environment(target: str) -> Environment:
    """Describe machine and versions for the report."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return Environment(
        lampq_onnx=metadata.version("lampq-onnx"),
        python=platform.python_version(),
        versions=versions,
        cpu=cpu_name(),
        cpu_flags=cpu_flags(),
        cores=available_cores(),
        target=target,
    )
