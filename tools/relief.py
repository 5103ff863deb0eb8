"""Train a small Vision Transformer that says how far every pixel is from the nearest stroke: a map, as depth is.

    python -m tools.relief        # under a minute on one core

It is the embedded model of digits without its head, with a linear layer that turns each patch's token into the numbers
of its pixels. The whole is trained for a few hundred steps on the digits of the training split.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lampq_onnx.frontend.models.digits import SplitName, split_images
from lampq_onnx.frontend.models.loading import load_digits

INK = 100
"""Level of 255 from which a pixel belongs to a stroke."""

STEPS, BATCH, RATE, WARMUP = 800, 64, 1e-3, 50


class Relief(torch.nn.Module):
    """The embedded model with a map (n, 1, h, w) as its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = load_digits().module
        self.vit.reset_classifier(0)
        self.side = self.vit.patch_embed.patch_size[0]
        self.pixels = torch.nn.Linear(self.vit.embed_dim, self.side**2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.vit.forward_features(images)[:, self.vit.num_prefix_tokens :]
        height, width = images.shape[2] // self.side, images.shape[3] // self.side
        patches = self.pixels(tokens).reshape(-1, height, width, self.side, self.side)
        return patches.transpose(2, 3).reshape(-1, 1, images.shape[2], images.shape[3])


def distances(crops: torch.Tensor) -> torch.Tensor:
    """One more than the distance of every pixel to the nearest stroke, in pixels.

    Args:
        crops: uint8 (n, h, w).
    """
    height, width = crops.shape[1:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([y.flatten(), x.flatten()], 1).float()
    apart = torch.cdist(places, places).expand(len(crops), -1, -1)
    away = (crops.flatten(1) < INK)[:, None]
    return 1 + apart.masked_fill(away, math.inf).amin(-1).reshape(-1, 1, height, width)


def pairs(part: SplitName) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs of a split and their maps."""
    preprocessing = load_digits().preprocessing
    crops = np.stack([preprocessing.crop(image) for image in split_images(part)[0]])
    inputs = torch.from_numpy(preprocessing.normalize(crops))
    return inputs, distances(torch.from_numpy(crops).reshape(len(crops), *inputs.shape[2:]))


def trained(steps: int, seed: int = 0) -> Relief:
    """Train on the training split; prints the error on the test split."""
    torch.manual_seed(seed)
    images, wanted = pairs("train")
    model = Relief().train().requires_grad_(True)
    torch.nn.init.constant_(model.pixels.bias, float(wanted.mean()))
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.05)
    for step in range(steps):
        rate = RATE * min(1.0, (step + 1) / WARMUP) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = torch.randint(len(images), (BATCH,))
        loss = functional.smooth_l1_loss(model(images[chosen]), wanted[chosen], beta=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().requires_grad_(False)
    images, wanted = pairs("test")
    with torch.no_grad():
        error = float(((model(images) - wanted).abs() / wanted).mean())
    print(f"{steps} steps; mean relative error of the distances {error:.3f}", flush=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the map of distances of digits.")
    parser.add_argument("--steps", type=int, default=STEPS)
    trained(parser.parse_args().steps)


if __name__ == "__main__":
    main()
