"""Make what a user brings: images in class folders, and a small Vision Transformer trained on them.

    python tools/own_model.py FOLDER

This writes vit.safetensors, and calibration/ and validation/ (scikit-learn's digits as PNG files of 32 x 32 pixels, one
folder for each class), and prints the accuracy. It needs timm and scikit-learn. It does not use lampq_onnx, so that the
model really comes from outside the package.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

TIMM_MODEL = "vit_tiny_patch16_224"
TIMM_ARGS = {
    "img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 3, "num_classes": 10,
}  # fmt: skip
CHECKPOINT = "vit.safetensors"
PARTS = {"train": 1000, "calibration": 297, "validation": 500}
SEED = 0
EPOCHS = 60
BATCH = 50
RATE = 3e-3
LEAST_TOP1 = 0.9
"""Below it nothing that is measured on the model means much."""


def split() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """uint8 (n, 32, 32) images and int64 (n,) labels of each part."""
    import numpy as np
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    large = np.kron(pixels.reshape(-1, 8, 8) * 15, np.ones((1, 4, 4))).astype(np.uint8)
    order = np.random.default_rng(SEED).permutation(len(large))
    ends = np.cumsum(list(PARTS.values()))
    return {
        name: (large[order[end - count : end]], labels[order[end - count : end]])
        for (name, count), end in zip(PARTS.items(), ends, strict=True)
    }


def write_folders(images: np.ndarray, labels: np.ndarray, folder: Path) -> None:
    from PIL import Image

    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert("RGB").save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write digits as class folders, and a small ViT trained on them.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder

    import timm
    import torch
    from safetensors.torch import save_file
    from torch.nn import functional as F

    parts = split()
    for name in ("calibration", "validation"):
        write_folders(*parts[name], folder / name)

    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    model = timm.create_model(TIMM_MODEL, **TIMM_ARGS)
    for name, layer in model.named_modules():
        if name.startswith("blocks.") and isinstance(layer, torch.nn.Linear):
            torch.nn.init.xavier_normal_(layer.weight)  # timm's 0.02 is meant for wider models
    mean, std = model.pretrained_cfg["mean"][0], model.pretrained_cfg["std"][0]

    def tensors(images: np.ndarray) -> torch.Tensor:
        return ((torch.from_numpy(images).float() / 255 - mean) / std)[:, None].expand(-1, 3, -1, -1)

    images, labels = tensors(parts["train"][0]), torch.from_numpy(parts["train"][1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05, betas=(0.9, 0.98))
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.15)
    model.train()
    for epoch in range(EPOCHS):
        for chosen in torch.randperm(len(images)).split(BATCH):
            grid = F.affine_grid(
                torch.eye(2, 3) + 0.15 * (torch.rand(len(chosen), 2, 3) * 2 - 1),
                [len(chosen), 3, 32, 32],
                align_corners=False,
            )  # turned, stretched and shifted a little, each image in its own way
            moved = F.grid_sample(images[chosen], grid, padding_mode="border", align_corners=False)
            loss = F.cross_entropy(model(moved), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: loss {loss.item():.4f}", flush=True)
    model.eval()
    with torch.inference_mode():
        found = model(tensors(parts["validation"][0])).argmax(1).numpy()
    top1 = float((found == parts["validation"][1]).mean())
    if top1 < LEAST_TOP1:
        raise SystemExit(f"trained to {top1:.2%} only; at least {LEAST_TOP1:.0%} is expected")
    save_file(model.state_dict(), folder / CHECKPOINT)
    words = " ".join(f"--model-arg {key}={value}" for key, value in TIMM_ARGS.items())
    print(f"{folder / CHECKPOINT}: {top1:.2%} of {len(found)} validation images; {TIMM_MODEL} {words}")


if __name__ == "__main__":
    main()
