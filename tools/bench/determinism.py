"""Compare what `quantize` writes on one thread, on two threads, and with the kernels of another processor.

    python tools/bench/determinism.py --effort fast --effort balanced --effort best digits
    python tools/bench/determinism.py -- deit_tiny_patch16_224 --checkpoint W --calibration C --validation V

Every run is a process of its own, without cached results. The comparison covers the files that hold no times, and the
widths of the plan. Environment variables make PyTorch and its libraries compute as on a processor with AVX2 only. Their
sums then differ in the last bits.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lampq_onnx.artifacts import BitPlan
from lampq_onnx.cli.parameters import run_tool
from lampq_onnx.disk.files import PLAN_FILE, TIMELESS_FILES
from lampq_onnx.errors import LampqError

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
"""PyTorch's own kernels, and those of the two libraries it multiplies matrices with."""


@dataclass(frozen=True)
class Result:
    """The files that a run wrote.

    Attributes:
        files: bytes of each of TIMELESS_FILES.
        widths: layer -> weight and input bits.
    """

    files: dict[str, bytes]
    widths: dict[str, tuple[int, int]]


def quantized(words: list[str], threads: int, environment: dict[str, str]) -> Result:
    """Run quantize in a process of its own.

    Raises:
        LampqError: it failed.
    """
    with tempfile.TemporaryDirectory(prefix="lampq-") as room:
        output = Path(room, "out")
        command = [sys.executable, "-m", "lampq_onnx", "quantize", *words]
        command += ["--threads", str(threads), "--latency-runs", "1", "--output", str(output)]
        environment = {**os.environ, "LAMPQ_ONNX_CACHE": str(Path(room, "cache")), **environment}
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if found.returncode:
            raise LampqError(f"{' '.join(command)}: exit code {found.returncode}\n{found.stderr[-1000:]}")
        layers = BitPlan.load(output / PLAN_FILE).layers
        return Result(
            {name: (output / name).read_bytes() for name in TIMELESS_FILES},
            {name: (layer.weight_bits, layer.activation_bits) for name, layer in layers.items()},
        )


def main(
    words: Annotated[list[str], typer.Argument(help="Arguments for quantize: the model, and after -- its options.")],
    effort: Annotated[list[str] | None, typer.Option(help="Effort to run; repeatable.")] = None,
    kernels: Annotated[bool, typer.Option(help="Also run with AVX2 kernels.")] = True,
) -> None:
    """Print a table; the exit code is 1 if two threads change bytes, or other kernels change widths."""
    wrong = False
    print(f"| model | effort | against one thread | {' | '.join(TIMELESS_FILES)} | other widths |", flush=True)
    print(f"|---|---|---|{'---|' * len(TIMELESS_FILES)}---|", flush=True)
    for name in effort or ["fast"]:
        own = [*words, "--effort", name]
        one = quantized(own, 1, {})
        for place, threads, environment in (("two threads", 2, {}), ("AVX2 kernels in PyTorch", 1, AVX2)):
            if environment and not kernels:
                continue
            other = quantized(own, threads, environment)
            same = [other.files[file] == one.files[file] for file in TIMELESS_FILES]
            moved = sum(other.widths[layer] != width for layer, width in one.widths.items())
            wrong |= moved > 0 or (not environment and not all(same))
            cells = " | ".join("same" if equal else "other bytes" for equal in same)
            print(f"| {words[0]} | {name} | {place} | {cells} | {moved} of {len(one.widths)} |", flush=True)
    if wrong:
        raise typer.Exit(1)


if __name__ == "__main__":
    run_tool(main)
