"""Compare the cost of the Fisher traces with the forward and backward pass of a plain training step, in one process.

    python tools/bench/fisher.py deit_tiny_patch16_224 --images 16

Weights are random unless --checkpoint is given: the cost does not depend on them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import timm
import torch
from torch.nn import functional

from lampq_onnx.frontend.measuring.fisher import fisher_traces
from lampq_onnx.frontend.models.loading import load_timm
from lampq_onnx.frontend.session import Frontend
from lampq_onnx.runtime.environment import available_cores, describe_environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="deit_tiny_patch16_224")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=available_cores())
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    checkpoint = options.checkpoint
    if checkpoint is None:
        torch.manual_seed(0)
        checkpoint = Path("random.pth")
        state = timm.create_model(options.model).state_dict()
        torch.save(state, checkpoint)
    try:
        frontend = Frontend(load_timm(options.model, checkpoint=checkpoint))
    finally:
        if options.checkpoint is None:
            checkpoint.unlink()
    module, layers = frontend.loaded.module, frontend.exported.layers
    preprocessing = frontend.loaded.preprocessing
    shape = (options.images, preprocessing.channels, *preprocessing.size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(options.images, dtype=torch.int64)

    def plain() -> None:
        module.requires_grad_(True)
        for start in range(0, options.images, options.batch):
            loss = functional.cross_entropy(
                module(images[start : start + options.batch]), labels[start : start + options.batch]
            )
            loss.backward()
            module.zero_grad(set_to_none=True)
        module.requires_grad_(False)

    def fisher() -> None:
        starts = range(0, options.images, options.batch)
        fisher_traces(module, layers, ((images[s : s + options.batch], None) for s in starts))

    times: dict[str, list[float]] = {"plain": [], "fisher": []}
    for turn in range(options.rounds + 1):
        for name, run in (("plain", plain), ("fisher", fisher)):
            start = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - start)
    ratios = np.array(times["fisher"]) / np.array(times["plain"])
    environment = describe_environment("none")
    print(f"{options.model}, {options.images} images, batch {options.batch}, {options.threads} threads")
    print(f"{environment.cpu} ({', '.join(environment.cpu_flags)}), torch {environment.versions['torch']}")
    print(f"plain forward + backward  {np.median(times['plain']):.3f} s")
    print(f"Fisher traces             {np.median(times['fisher']):.3f} s")
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    print(f"ratio                     {middle:.2f} [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main()
