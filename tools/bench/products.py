"""Speed of a Vision Transformer's float32 products on this CPU: PyTorch's default library and oneDNN.

    python -m tools.bench.products
    python -m tools.bench.products --models deit_tiny_patch16_224,vit_base_patch16_224

Prints GFLOP/s of the product of a layer, and of its gradients in inputs and weights; then milliseconds for one image in
a pass forward, and forward and backward to the inputs. The front end takes oneDNN where `by_onednn` says so.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from lampq_onnx.frontend.shared import products
from lampq_onnx.runtime.environment import describe_environment

TOKENS = 197
SHAPES = {"DeiT-Ti qkv": (192, 576), "DeiT-Ti fc2": (768, 192), "ViT-B fc1": (768, 3072), "ViT-B fc2": (3072, 768)}
RUNS = 5


def best(function: Callable[[], object]) -> float:
    """Smallest processor time of a call: it hardly depends on what else runs."""
    function()
    found = float("inf")
    for _ in range(RUNS):
        start = time.process_time()
        function()
        found = min(found, time.process_time() - start)
    return found


def layers(images: int) -> None:
    """Print the table of single products."""
    print("| layer | forward, GFLOP/s: default, oneDNN | gradient of inputs | gradient of weights |\n|---|---|---|---|")
    for name, (inner, outputs) in SHAPES.items():
        x, w, b = torch.randn(images * TOKENS, inner), torch.randn(outputs, inner), torch.randn(outputs)
        g = torch.randn(images * TOKENS, outputs)
        work = 2e-9 * x.numel() * outputs
        cells = []
        for inputs, weight, bias in ((x, w, b), (g, w.T, None), (g.T, x.T, None)):
            pair = (
                best(lambda i=inputs, v=weight, a=bias: functional.linear(i, v, a)),
                best(lambda i=inputs, v=weight, a=bias: products._product(i, v, a)),
            )
            cells.append(", ".join(f"{work / seconds:.0f}" for seconds in pair))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def passes(name: str, images: int) -> None:
    """Print the row of one model."""
    import timm

    model = timm.create_model(name).eval().requires_grad_(False)
    values = torch.randn(images, 3, *model.patch_embed.img_size)

    def both() -> None:
        own = values.clone().requires_grad_()
        model(own).square().sum().backward()

    cells = []
    for _ in range(2):
        with torch.no_grad():
            forward = best(lambda: model(values))
        cells.append((forward, best(both)))
        products.use_products(model)
    texts = [", ".join(f"{1e3 * cell[place] / images:.1f}" for cell in cells) for place in (0, 1)]
    print(f"| {name} | {' | '.join(texts)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="deit_tiny_patch16_224")
    parser.add_argument("--images", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rule = products.by_onednn()
    print(f"{describe_environment('any').cpu}; torch {torch.__version__}; one thread, {options.images} images")
    print(f"The front end multiplies by {'oneDNN' if rule else 'the default library'} on this processor.\n")
    layers(options.images)
    products.by_onednn = lambda: True  # type: ignore[assignment]
    print("\n| model | forward, ms an image: default, oneDNN | forward and backward |\n|---|---|---|")
    for name in options.models.split(","):
        passes(name, options.images)


if __name__ == "__main__":
    main()
