"""Where a file is meant to run, as data."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from lampq_onnx.errors import UsageError

Packing = Literal["exact", "native", "container"]

PACKINGS: tuple[Packing, ...] = ("exact", "native", "container")


@dataclass(frozen=True)
class Target:
    """What decides the form of a file.

    Attributes:
        name: the name on the command line.
        signed_8bit_exact: whether int8 weights of 8 bits run without saturation. The AVX2 kernels without VNNI add
            two products of uint8 and int8 in 16 bits, so only levels within +-64 are safe there
            (onnxruntime issue 14642); uint8 weights with zero point 128 take an exact, slower path.
        packing: the storage that `auto` stands for.
    """

    name: str
    signed_8bit_exact: bool
    packing: Packing = "exact"


TARGETS = {
    target.name: target
    for target in (
        Target("onnxruntime-x86-avx2", signed_8bit_exact=False),
        Target("onnxruntime-x86-vnni", signed_8bit_exact=True),
        Target("onnxruntime-arm64", signed_8bit_exact=True),
    )
}


def target_for(name: str, machine: str, cpu_flags: Collection[str]) -> Target:
    """The target called ``name``; `auto` reads the machine.

    Args:
        machine: as ``platform.machine()`` says it.
        cpu_flags: instruction sets of this CPU.

    Raises:
        UsageError: unknown name.
    """
    if name == "auto":
        if machine.lower() in ("arm64", "aarch64"):
            return TARGETS["onnxruntime-arm64"]
        vnni = any("vnni" in flag for flag in cpu_flags)
        return TARGETS["onnxruntime-x86-vnni" if vnni else "onnxruntime-x86-avx2"]
    if name not in TARGETS:
        raise UsageError(f"unknown target {name!r}", hint=f"known targets: auto, {', '.join(TARGETS)}")
    return TARGETS[name]
