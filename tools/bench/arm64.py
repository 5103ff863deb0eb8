"""Check files for arm64 under emulation, on CPUs without dotprod, with it, and with i8mm. Nothing is timed.

    python -m tools.bench.arm64 out/model.onnx --root ROOT --site SITE [--images images/val] [--runtime openvino]

Needs qemu-user-static, a root folder with Python and a folder with the packages of arm64. On Debian:

    apt-get install qemu-user-static mmdebstrap
    mmdebstrap --variant=extract --architectures=arm64 --include=python3,libstdc++6,libgomp1 bookworm ROOT
    pip download --no-deps --platform manylinux_2_28_aarch64 --python-version 311 --only-binary=:all: \\
        onnxruntime numpy flatbuffers protobuf packaging -d WHEELS
    pip download --no-deps --platform manylinux_2_35_aarch64 --python-version 311 --only-binary=:all: openvino -d WHEELS
    for wheel in WHEELS/*.whl; do unzip -qo $wheel -d SITE; done

A device prints the same row for itself: see `lampq-onnx bench --kit`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.runtime.engine import ONNXRUNTIME
from lampq_onnx.runtime.fidelity import on_levels
from lampq_onnx.runtime.on_device import BOUND, INTEGER
from lampq_onnx.runtime.sessions import open_session
from lampq_onnx.targets import RUNNERS
from lampq_onnx.workflow.device import bench

QEMU = "qemu-aarch64-static"
OPENVINO_PROGRAM = Path(__file__).with_name("openvino_kit.py")


@dataclass(frozen=True)
class Cpu:
    """A CPU of the emulator.

    Attributes:
        name: its name there.
        part: what it reports as its part.
        features: what Linux says of it; onnxruntime reads them when it is imported.
        words: what matters here.
    """

    name: str
    part: str
    features: str
    words: str

    def cpuinfo(self) -> str:
        """Text of its /proc/cpuinfo."""
        return (
            f"processor\t: 0\nBogoMIPS\t: 100.00\nFeatures\t: {self.features}\nCPU implementer\t: 0x41\n"
            f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {self.part}\nCPU revision\t: 4\n\n"
        )


_BASE = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_DOT = f"{_BASE} atomics fphp asimdhp asimdrdm lrcpc asimddp"

CPUS = (
    Cpu("cortex-a53", "0xd03", _BASE, "no dotprod"),
    Cpu("cortex-a76", "0xd0b", _DOT, "dotprod"),
    Cpu("max", "0xd0b", f"{_DOT} i8mm bf16", "dotprod and i8mm"),
)


def make_kit(file: Path, images: Path | None, kit: Path, runtime: str) -> None:
    """Write the kit of a file. OpenVINO's layers get inputs that are levels, see `on_levels`."""
    bench(file, ImageOptions(validation=images), kit=kit)
    if runtime == ONNXRUNTIME.runtime:
        return
    for path in kit.glob("layer*.onnx"):
        piece = onnx.load(path)
        name = piece.graph.input[0].name
        values = on_levels(piece, name, np.load(path.with_suffix(".npz"))["input"])
        parts = open_session(piece.SerializeToString(), threads=1, optimize=False).run(None, {name: values})
        result = np.concatenate([np.asarray(part, np.float32).ravel() for part in parts])
        np.savez(path.with_suffix(".npz"), input=values, result=result)


def row_of(cpu: Cpu, kit: Path, root: Path, site: Path, runtime: str = ONNXRUNTIME.runtime) -> dict[str, Any]:
    """Run a kit on one CPU of the emulator; why it fails, or the row that the kit measures."""
    place = root / "proc" / "cpuinfo"
    place.parent.mkdir(exist_ok=True)
    place.write_text(cpu.cpuinfo(), encoding="utf-8")
    python = next(root.glob("usr/bin/python3.[0-9]*"))
    command = [QEMU, "-cpu", cpu.name, "-L", str(root), "-E", f"PYTHONPATH={site.resolve()}", str(python)]
    return run_kit(command, kit, runtime)


def run_kit(python: Sequence[str], kit: Path, runtime: str) -> dict[str, Any]:
    """Run a kit with an emulated Python; why it fails, or the row that the kit measures."""
    own = [str(kit / "bench.py"), "--runs", "0", "--json"]
    program = own if runtime == ONNXRUNTIME.runtime else [str(OPENVINO_PROGRAM), str(kit)]
    done = subprocess.run([*python, *program], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def integer_layers(row: dict[str, Any]) -> int:
    """Number of layers on integer kernels."""
    return sum(layer.get("integer", _integer(layer["kernel"])) for layer in row["layers"].values())


def _integer(kernels: str) -> bool:
    """Whether a kernel of onnxruntime multiplies integers."""
    return any(word in INTEGER for word in kernels.split(" + "))


def print_row(file: Path, cpu: Cpu, row: dict[str, Any]) -> None:
    """Print a row of the table in docs/runtime/targets.md."""
    if "failed" in row:
        print(f"| {file} | {cpu.name} ({cpu.words}) | failed: {row['failed']} | | |")
        return
    layers = row["layers"].values()
    worst, exact = max(layer["error"] for layer in layers), sum(layer["error"] <= BOUND for layer in layers)
    integer = integer_layers(row)
    same = "-" if row["same"] is None else f"{row['same']:.1%} (n = {row['images']})"
    verdict = "exact, never timed" if exact == len(layers) else f"{len(layers) - exact} layers are not exact"
    print(
        f"| {file} | {cpu.name} ({cpu.words}) | {integer} of {len(layers)} | {worst:.1e}: {verdict} | {same} |",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each file and CPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--root", type=Path, required=True, help="root folder of arm64 with Python")
    parser.add_argument("--site", type=Path, required=True, help="folder with onnxruntime and NumPy for arm64")
    parser.add_argument("--runtime", choices=tuple(RUNNERS), default=ONNXRUNTIME.runtime, help="what runs the files")
    parser.add_argument("--images", type=Path, help="images whose answers are compared; default: none are")
    asked = parser.parse_args(arguments)
    if shutil.which(QEMU) is None:
        parser.error(f"{QEMU} is not installed: apt-get install qemu-user-static")
    print(
        "| file | emulated CPU | layers on integer kernels | worst layer against plain arithmetic | answers of float |"
    )
    print("|---|---|---|---|---|")
    for file in asked.files:
        with TemporaryDirectory(prefix="lampq-") as room:
            make_kit(file, asked.images, Path(room) / "kit", asked.runtime)
            for cpu in CPUS:
                print_row(file, cpu, row_of(cpu, Path(room) / "kit", asked.root, asked.site, asked.runtime))


if __name__ == "__main__":
    main()
