"""Time and peak memory of every stage of `quantize`, for models of several sizes and numbers of images.

    python tools/bench/scale.py stages --shapes Ti,S,B --counts 64 --bits 8 --effort fast
    python tools/bench/scale.py stages --shapes Ti --counts 64,128,256 --bits 4 --effort balanced
    python tools/bench/scale.py stages --shapes B,L --counts 128 --device cuda

Models are timm's Vision Transformers with random weights, images are noise. Every run is a process of its own. Memory
is resident memory, read every 10 ms, and on a GPU also the most that torch allocated there. The last column is
the exponent of the time between the first and the last run: over the number of parameters if there are several shapes,
over the number of images otherwise.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lampq_onnx.runtime.environment import describe_environment

ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 2**20
NAMES = {"Ti": "tiny", "S": "small", "B": "base", "L": "large"}
CLASSES, SIDE = 1000, 224
VALIDATION = 16


class Sampler:
    """A sink of progress that keeps the seconds and the largest resident memory of every stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, float] = {}
        self._open: list[str] = []
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            used = resident()
            for name in self._open:
                self.peaks[name] = max(self.peaks.get(name, 0.0), used)
            time.sleep(0.01)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[object]:  # noqa: ARG002 -- of the protocol
        start = time.perf_counter()
        self.peaks[name] = max(self.peaks.get(name, 0.0), resident())
        self._open.append(name)
        try:
            yield lambda _: None
        finally:
            self._open.remove(name)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MEGABYTE


def measure(shape: str, count: int, options: argparse.Namespace) -> None:
    """Run one quantization, and print its figures as JSON."""
    import timm
    import torch

    from lampq_onnx.config.recipe import Recipe
    from lampq_onnx.workflow.inputs import Given
    from lampq_onnx.workflow.quantize import quantize

    torch.manual_seed(0)
    name = f"vit_{NAMES[shape]}_patch16_{SIDE}"
    module = timm.create_model(name, num_classes=CLASSES).eval()
    parameters = sum(value.numel() for value in module.parameters())
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        for kind, number in (("calibration", count), ("validation", VALIDATION)):
            pixels = np.random.default_rng(number).integers(0, 256, (number, SIDE, SIDE, 3), np.uint8)
            np.savez(folder / f"{kind}.npz", images=pixels, labels=np.arange(number) % CLASSES)
        recipe = Recipe.build(
            {
                "model": {"name": name, "device": options.device},
                "images": {
                    "calibration": str(folder / "calibration.npz"),
                    "validation": str(folder / "validation.npz"),
                    "calibration_size": count,
                },
                "allocation": {"bits": options.bits},
                "analysis": {"effort": options.effort},
                "output": {"gate_agreement": 0.0, "latency_runs": 1, "threads": options.threads},
            }
        )
        sampler = Sampler()
        quantize(recipe, folder / "out", progress=sampler, given=Given(module=module))
    device = torch.cuda.max_memory_allocated() / MEGABYTE if torch.cuda.is_available() else 0.0
    print(json.dumps([parameters, sampler.seconds, sampler.peaks, device]))


def run(shape: str, count: int, options: argparse.Namespace) -> tuple[int, dict[str, float], dict[str, float], float]:
    words = [sys.executable, __file__, "--one", shape, str(count)]
    for option in ("bits", "effort", "device", "threads"):
        words += [f"--{option}", str(getattr(options, option))]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(words, check=False, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    parameters, seconds, peaks, device = json.loads(done.stdout.splitlines()[-1])
    return parameters, seconds, peaks, device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="Ti,S")
    parser.add_argument("--counts", default="64")
    parser.add_argument("--bits", type=float, default=4.0)
    parser.add_argument("--effort", default="balanced")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options.one[0], int(options.one[1]), options)
        return
    print(f"{describe_environment('any').cpu}; {options.bits:g} bits, {options.effort}, {options.device}, ", end="")
    print(f"{options.threads} threads\n")
    runs = [(shape, int(count)) for shape in options.shapes.split(",") for count in options.counts.split(",")]
    figures = [run(shape, count, options) for shape, count in runs]
    print("| stage | " + " | ".join(f"{shape}, {count}: s / MB" for shape, count in runs) + " | exponent |")
    print("|---" * (len(runs) + 2) + "|")
    sizes = [found[0] for found in figures] if figures[0][0] != figures[-1][0] else [count for _, count in runs]
    growth = math.log(sizes[-1] / sizes[0]) if sizes[-1] > sizes[0] else 0.0
    for stage in figures[-1][1]:
        cells = [f"{own.get(stage, 0.0):.1f} / {peaks.get(stage, 0.0):.0f}" for _, own, peaks, _ in figures]
        first, last = figures[0][1].get(stage, 0.0), figures[-1][1][stage]
        exponent = f"{math.log(last / first) / growth:.2f}" if first > 0.05 and growth else ""
        print(f"| {stage} | {' | '.join(cells)} | {exponent} |")
    totals = [f"{sum(own.values()):.1f} / {max(peaks.values()):.0f}" for _, own, peaks, _ in figures]
    print(f"| all | {' | '.join(totals)} | |")
    if options.device != "cpu":
        print(f"| on the GPU, MB | {' | '.join(f'{found[3]:.0f}' for found in figures)} | |")


if __name__ == "__main__":
    main()
