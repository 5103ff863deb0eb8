"""Measure the memory that quantizing an encoder of the size of SAM's takes: images of 1024 x 1024, 4096 tokens.

    python -m tools.bench.large_inputs                              # the encoder of SAM ViT-B, random weights
    python -m tools.bench.large_inputs --depth 2 --images 2 8 --bits 8
    python -m tools.bench.large_inputs --images 8 32 --device cuda --effort balanced --stages

Every number of calibration images is a run of its own, with images of noise. The table shows the most resident memory
of the process and of its front end (all before the file is checked), and on a GPU the most that torch allocated there,
so the rows show whether it grows with the images.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from tools.bench.stage_run import Sampler
from tools.bench.stage_table import CHECKS

ROOT = Path(__file__).resolve().parents[2]
SIDE, PATCH = 1024, 16
COLUMNS = ("blocks", "calibration images", "bits", "effort", "peak, GB", "front end, GB", "GPU, GB", "s", "SQNR, dB")


def write_model(folder: Path, depth: int, side: int) -> None:
    """The vision encoder of SAM ViT-B with fewer blocks; every third one attends to the whole image."""
    from transformers import SamVisionConfig, SamVisionModel

    from tools.bench.family import randomize

    attending = list(range(min(2, depth - 1), depth, 3))
    config = SamVisionConfig(num_hidden_layers=depth, global_attn_indexes=attending, image_size=side, patch_size=PATCH)
    model = SamVisionModel(config)
    randomize(model, 0)
    model.save_pretrained(folder)


def write_images(folder: Path, count: int, side: int, seed: int) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for index in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        coarse.resize((side, side)).save(folder / f"{index:04d}.png")


def quantize(folder: Path, images: int, options: argparse.Namespace) -> None:
    """One run; prints a line for each stage, and the figures of the table."""
    from lampq_onnx.config.recipe import Recipe
    from lampq_onnx.workflow.quantize import quantize

    recipe = Recipe.build({
        "model": {"name": str(folder / "model"), "device": options.device},
        "images": {
            "calibration": str(folder / "calibration"), "validation": str(folder / "validation"),
            "calibration_size": images, "mean": (0.5,) * 3, "std": (0.5,) * 3,
        },
        "allocation": {"bits": options.bits},
        "analysis": {"effort": options.effort},
        "output": {"threads": options.threads, "latency_runs": 1, "gate_agreement": 0.0},
    })  # fmt: skip
    start = time.perf_counter()
    sampler = Sampler(cuda=options.device != "cpu")
    report = quantize(recipe, folder / f"out-{images}", progress=sampler)
    seconds = time.perf_counter() - start
    for stage, taken in sampler.seconds.items():
        print(f"{stage}: {taken:.0f} s, {sampler.peaks[stage] / 1024:.2f} GB", end="")
        print(f", {sampler.device[stage] / 1024:.2f} GB on the GPU" if stage in sampler.device else "")
    front = max(peak for stage, peak in sampler.peaks.items() if stage not in CHECKS) / 1024
    gpu = max(sampler.device.values(), default=0.0) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sqnr = report.accuracy.logit_sqnr_db or float("inf")
    print(f"{peak:.2f} | {front:.2f} | {gpu:.2f} | {seconds:.0f} | {sqnr:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the memory of calibration on large images.")
    parser.add_argument("--depth", type=int, default=12, help="number of blocks")
    parser.add_argument("--images", type=int, nargs="+", default=[2, 8, 32], help="numbers of calibration images")
    parser.add_argument("--bits", type=float, default=4.0)
    parser.add_argument("--effort", default="fast")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--stages", action="store_true", help="also print the time and memory of every stage")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, default=SIDE, help="height and width of the images")
    parser.add_argument("--run", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run is not None:
        quantize(options.folder, options.run, options)
        return
    from lampq_onnx.runtime.environment import describe_environment

    print(f"{describe_environment('').cpu}, {options.threads} thread(s); images of {options.side} x {options.side}")
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    with tempfile.TemporaryDirectory(prefix="lampq-") as room:
        folder = Path(room)
        write_model(folder / "model", options.depth, options.side)
        write_images(folder / "calibration", max(options.images), options.side, 1)
        write_images(folder / "validation", 4, options.side, 2)
        for count in options.images:
            command = [
                *(sys.executable, "-m", "tools.bench.large_inputs", "--run", str(count), "--folder", str(folder)),
                *("--effort", options.effort, "--threads", str(options.threads)),
                *("--bits", str(options.bits), "--device", options.device),
            ]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{count} images: exit code {done.returncode}\n{done.stderr[-2000:]}")
            *stages, figures = done.stdout.strip().splitlines()
            print(f"| {options.depth} | {count} | {options.bits:g} | {options.effort} | {figures} |", flush=True)
            if options.stages:
                print("\n".join(["", *stages, ""]), flush=True)


if __name__ == "__main__":
    main()
