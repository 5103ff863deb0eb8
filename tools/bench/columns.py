"""The columns of GPTQ on a GPU: one operation after the other, and as a CUDA graph.

    python -m tools.bench.columns --device cuda

Prints seconds of rounding one layer both ways, and in how many codes the two differ. Weights and inputs are random.
"""

from __future__ import annotations

import argparse
import time

import torch

from lampq_onnx.frontend.simulation import gptq
from lampq_onnx.frontend.simulation.grids import fit_weight_grids

LAYERS = {
    "DeiT-Ti qkv": (576, 192), "DeiT-Ti fc2": (192, 768), "ViT-B qkv": (2304, 768), "ViT-B fc2": (768, 3072),
    "ViT-L fc2": (1024, 4096),
}  # fmt: skip
WIDTHS = ((2, 3, 4, 5, 6, 7, 8), (4,))
TOKENS = 4096
RUNS = 3
NEVER = 2**40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", default=",".join(LAYERS))
    options = parser.parse_args()
    device = torch.device(options.device)
    usual = gptq.GRAPHED
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU: both are the loop"
    print(f"{name}; torch {torch.__version__}\n")
    print("| layer | widths | loop, s | CUDA graph, s | times as fast | codes that differ |\n|---|---|---|---|---|---|")
    for layer in options.layers.split(","):
        outputs, inputs = LAYERS[layer]
        generator = torch.Generator().manual_seed(0)
        weight = (torch.randn(outputs, inputs, generator=generator) * inputs**-0.5).to(device)
        tokens = torch.randn(TOKENS, inputs, generator=generator) * torch.linspace(1, 0.1, inputs)
        tokens += torch.randn(TOKENS, 1, generator=generator)
        hessian = (tokens.T @ tokens / TOKENS).to(device)
        for widths in WIDTHS:
            grids = fit_weight_grids(weight, widths)
            seconds, codes = [], []
            for gptq.GRAPHED in (NEVER, usual):
                taken = float("inf")
                for _ in range(RUNS):
                    start = time.perf_counter()  # the codes are on the CPU at the end, so that the device is done
                    found = gptq.gptq_quantize(weight, grids, hessian, latent=False)
                    taken = min(taken, time.perf_counter() - start)
                seconds.append(taken)
                codes.append([result.weight.codes for result in found])
            other = sum(int((one != two).sum()) for one, two in zip(*codes, strict=True))
            print(
                f"| {layer}, {outputs} x {inputs} | {len(widths)} | {seconds[0]:.3f} | {seconds[1]:.3f} "
                f"| {seconds[0] / seconds[1]:.2f} | {other} of {weight.numel() * len(widths)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
