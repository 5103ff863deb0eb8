"""Train a small Vision Transformer that reads strings of digits: one class for each step, as CTC needs.

    python -m tools.reader --output reader        # about a minute on one core

The strips are drawn from scikit-learn's digits (those of the embedded model): three to five of them at random places of
a strip of 8 x 40 pixels. The output folder gets the weights (model.safetensors), and images with their digits for
calibration and validation (.npz). The strips of the validation hold digits that the training has not seen. They are
read by `lampq-onnx quantize` with the name and arguments of the timm model, which the program prints.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lampq_onnx.frontend.models.digits import SplitName, split_images

MODEL = "vit_tiny_patch16_224"
ARGUMENTS: dict[str, int | str | bool | tuple[int, int]] = {
    "img_size": (8, 40), "patch_size": (8, 2), "in_chans": 1, "num_classes": 11, "embed_dim": 48, "depth": 4,
    "num_heads": 3, "class_token": False, "global_pool": "",
}  # fmt: skip
"""20 steps for each strip; class 0 is CTC's blank, and class d + 1 is the digit d."""

MEAN, STD = 0.3, 0.35
WIDTH, SIDE, LONGEST = 40, 8, 5
STEPS, BATCH, RATE, WARMUP = 1500, 64, 2e-3, 100

Pixels = npt.NDArray[np.uint8]
Texts = npt.NDArray[np.int64]


def strips(part: SplitName, count: int, seed: int) -> tuple[Pixels, Texts]:
    """Draw strips uint8 (count, 8, 40, 1) and their classes int64 (count, 5), filled up with -1."""
    digits, labels = split_images(part)
    random = np.random.default_rng(seed)
    images = np.zeros((count, SIDE, WIDTH, 1), np.uint8)
    texts = np.full((count, LONGEST), -1, np.int64)
    for image, text in zip(images, texts, strict=True):
        length = int(random.integers(3, LONGEST + 1))
        gaps = random.multinomial(WIDTH - SIDE * length, [1 / (length + 1)] * (length + 1))
        start = 0
        for position, gap in enumerate(gaps[:-1]):
            chosen = int(random.integers(len(digits)))
            start += int(gap)
            image[:, start : start + SIDE] = digits[chosen]
            text[position] = labels[chosen] + 1
            start += SIDE
    return images, texts


def prepared(images: Pixels) -> torch.Tensor:
    """The images as the model takes them, float32 (n, 1, 8, 40)."""
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def trained(steps: int = STEPS, seed: int = 0) -> torch.nn.Module:
    """The model after training with CTC loss."""
    torch.manual_seed(seed)
    model = timm.create_model(MODEL, **ARGUMENTS)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.05)
    for step in range(steps):
        images, texts = strips("train", BATCH, seed=10_000 + step)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARMUP) * (0.01 + 0.495 * (1 + math.cos(math.pi * step / steps)))
        scores = model(prepared(images)).log_softmax(-1).transpose(0, 1)
        lengths = torch.from_numpy((texts >= 0).sum(1))
        flat = torch.from_numpy(texts[texts >= 0])
        loss = functional.ctc_loss(scores, flat, torch.full((BATCH,), len(scores)), lengths, zero_infinity=True)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval().requires_grad_(False)


def write(model: torch.nn.Module, folder: Path, *, calibration: int = 128, validation: int = 500) -> None:
    """Write weights and images to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    sets: tuple[tuple[SplitName, int, int], ...] = (("calibration", calibration, 1), ("test", validation, 2))
    for part, count, seed in sets:
        images, texts = strips(part, count, seed)
        np.savez(folder / f"{part}.npz", images=images, labels=texts)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the reader of strips of digits.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    write(trained(options.steps), options.output)
    arguments = " ".join(f"--model-arg {key}={_typed(value)}" for key, value in ARGUMENTS.items())
    print(f"lampq-onnx quantize {MODEL} --checkpoint {options.output}/model.safetensors {arguments} \\")
    print(f"  --task sequence --mean {MEAN} --std {STD} --crop 1 --calibration {options.output}/calibration.npz \\")
    print(f"  --validation {options.output}/test.npz --output out")


def _typed(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return (str(value).lower() if isinstance(value, bool) else str(value)) or "''"


if __name__ == "__main__":
    main()
