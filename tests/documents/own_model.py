"""A reader's model and images: coloured noise, and a small Vision Transformer that tells the colours apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.documents.reader import CLASSES, STANDS_FOR

SIZE = 160

Batch = tuple[torch.Tensor, torch.Tensor]


def write() -> None:
    """Write calibration/, validation/, deit_tiny.safetensors and two torch files into the current folder."""
    rng = np.random.default_rng(0)
    calibration = _images(rng, Path("calibration"), 4)
    rows = ["path,label", *(f"{path.as_posix()},{label}" for path, label in _images(rng, Path("validation"), 8))]
    Path("validation/labels.csv").write_text("\n".join(rows) + "\n")
    save_file(_trained(calibration).state_dict(), "deit_tiny.safetensors")
    for name in ("model_best.pth.tar", "last.ckpt"):
        torch.save({"state_dict": load_file("deit_tiny.safetensors")}, name)


def own_module() -> tuple[torch.nn.Module, list[Batch], list[Batch]]:
    """The model as a module, batches for calibration, and batches with labels for validation."""
    module = timm.create_model(STANDS_FOR["deit_tiny_patch16_224"]).eval()
    module.load_state_dict(load_file("deit_tiny.safetensors"))
    batch = torch.randn(4, 3, SIZE, SIZE)
    batches = [(batch, torch.arange(4))]
    return module, batches, batches


def _images(rng: np.random.Generator, folder: Path, count: int) -> list[tuple[Path, int]]:
    """Write pictures in class folders; gives paths from ``folder``, and labels."""
    made = []
    for label, (name, colour) in enumerate(CLASSES.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.normal(colour, 40, (SIZE, SIZE, 3)).clip(0, 255).astype(np.uint8)
            path = Path(name, f"{number}.png")
            Image.fromarray(pixels).save(folder / path)
            made.append((path, label))
    return made


def _trained(images: list[tuple[Path, int]]) -> torch.nn.Module:
    """A model whose head is fitted to the images by least squares; the other weights stay random."""
    torch.manual_seed(0)
    model = timm.create_model(STANDS_FOR["deit_tiny_patch16_224"]).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    batch = torch.stack([transform(Image.open("calibration" / path)) for path, _ in images])
    wanted = 8 * torch.eye(len(CLASSES))[[label for _, label in images]] - 4
    with torch.no_grad():
        features = model.forward_head(model.forward_features(batch), pre_logits=True)
        rows = torch.cat([features, torch.ones(len(features), 1)], dim=1)
        fitted = torch.linalg.solve(rows.T @ rows + 0.01 * torch.eye(rows.shape[1]), rows.T @ wanted)
        model.head.weight.zero_()
        model.head.bias.fill_(-10)  # of the classes that no image has
        model.head.weight[: len(CLASSES)] = fitted[:-1].T
        model.head.bias[: len(CLASSES)] = fitted[-1]
    return model
