"""Train the embedded digits model and write its checkpoint and configuration to models/digits.

With lampq_onnx installed, run in the repository root: python tools/train_digits.py
The same versions of torch and timm on the same kind of CPU give the same weights.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform
from torch import nn
from torch.nn import functional as F

from lampq_onnx.frontend.models.digits import (
    CHECKPOINT_NAME,
    CONFIG_NAME,
    DigitsConfig,
    DigitsPreprocessing,
    make_split,
    part_images,
)
from lampq_onnx.quantization.fitting import fit_weight_grid

REPOSITORY = Path(__file__).resolve().parents[1]
# Wider models or longer training leave so much redundancy that even uniform 2-bit weights cost almost nothing;
# stronger weight decay empties the middle blocks.
TIMM_MODEL = "vit_tiny_patch16_224"
TIMM_ARGS: dict[str, int | float] = {
    "img_size": 16,
    "patch_size": 4,
    "in_chans": 1,
    "num_classes": 10,
    "embed_dim": 32,
    "depth": 8,
    "num_heads": 2,
    "mlp_ratio": 4.0,
}
PREPROCESSING = DigitsPreprocessing(
    size=(16, 16),
    crop_pct=1.0,
    crop_mode="center",
    interpolation="bicubic",
    mean=(0.3,),
    std=(0.35,),
    channels=1,
)
SPLIT = {"train": 1000, "calibration": 297, "test": 500, "seed": 0}
SEED = 0
EPOCHS = 50
BATCH = 50
RATE = 3e-3
DECAY = 0.15
LINEAR_NAMES = ("qkv", "proj", "fc1", "fc2")


def tensors(images: np.ndarray) -> torch.Tensor:
    """float32 (N, 1, 16, 16) from uint8 (N, 8, 8, 1), by timm's evaluation preprocessing."""
    transform = create_transform(
        input_size=(PREPROCESSING.channels, *PREPROCESSING.size),
        interpolation=PREPROCESSING.interpolation,
        mean=PREPROCESSING.mean,
        std=PREPROCESSING.std,
        crop_pct=PREPROCESSING.crop_pct,
        crop_mode=PREPROCESSING.crop_mode,
    )
    return torch.stack([transform(Image.fromarray(image[..., 0])) for image in images])


def augment(batch: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Rotate by up to 10 degrees, shear and stretch by up to 10 %, shift by up to one pixel of 16."""
    count = len(batch)

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(count, generator=random) * 2 - 1) * limit

    angle, shear = uniform(math.radians(10)), uniform(0.1)
    across, down = 1 + uniform(0.1), 1 + uniform(0.1)
    first = torch.stack([angle.cos() * across, (shear - angle.sin()) * across, uniform(0.125)], dim=1)
    second = torch.stack([angle.sin() * down, angle.cos() * down, uniform(0.125)], dim=1)
    grid = F.affine_grid(torch.stack([first, second], dim=1), list(batch.shape), align_corners=False)
    return F.grid_sample(batch, grid, padding_mode="border", align_corners=False)


def train(images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    torch.manual_seed(SEED)
    random = torch.Generator().manual_seed(SEED)
    model = timm.create_model(TIMM_MODEL, **TIMM_ARGS)
    # timm's deviation of 0.02 is meant for wider models; from it the middle blocks would never leave the identity.
    for layer in block_linears(model).values():
        nn.init.xavier_normal_(layer.weight)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, betas=(0.9, 0.98))
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.15)
    model.train()
    for epoch in range(EPOCHS):
        total = 0.0
        order = torch.randperm(len(images), generator=random)
        for chosen in order[: len(order) // BATCH * BATCH].split(BATCH):
            logits = model(augment(images[chosen], random))
            loss = F.cross_entropy(logits, labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1:4d}  loss {total / (len(order) // BATCH):.4f}", flush=True)
    return model.eval()


@torch.inference_mode()
def top1(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    return (model(images).argmax(1) == labels).double().mean().item()


def block_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The layers that get quantized: four in each block."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in LINEAR_NAMES
    }


@torch.inference_mode()
def quantized_top1(
    model: nn.Module,
    widths: dict[str, int],
    calibration: torch.Tensor,
    images: torch.Tensor,
    labels: torch.Tensor,
) -> float:
    """Top-1 with the named layers' weights rounded to the given widths and their inputs to 8 bits.

    Inputs use one scale and zero point for each layer, from the extremes over the calibration images.
    """
    layers = {name: layer for name, layer in block_linears(model).items() if name in widths}
    ranges: dict[str, tuple[float, float]] = {}
    hooks = []
    for name, layer in layers.items():

        def observe(_: nn.Module, inputs: tuple[torch.Tensor], name: str = name) -> None:
            ranges[name] = (min(inputs[0].min().item(), 0.0), max(inputs[0].max().item(), 0.0))

        hooks.append(layer.register_forward_pre_hook(observe))
    model(calibration)
    for hook in hooks:
        hook.remove()

    saved = {name: layer.weight.clone() for name, layer in layers.items()}
    hooks = []
    try:
        for name, layer in layers.items():
            weight = layer.weight.numpy()
            rounded = fit_weight_grid(weight, widths[name]).quantize(weight).dequantize()
            layer.weight.copy_(torch.from_numpy(rounded))
            low, high = ranges[name]
            scale = (high - low) / 255
            zero = round(-low / scale)

            def fake(
                _: nn.Module, inputs: tuple[torch.Tensor], scale: float = scale, zero: int = zero
            ) -> tuple[torch.Tensor]:
                return (torch.fake_quantize_per_tensor_affine(inputs[0], scale, zero, 0, 255),)

            hooks.append(layer.register_forward_pre_hook(fake))
        return top1(model, images, labels)
    finally:
        for hook in hooks:
            hook.remove()
        for name, layer in layers.items():
            layer.weight.copy_(saved[name])


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded digits model.")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "models" / "digits")
    parser.add_argument("--single", action="store_true", help="also measure it with single layers rounded to 2 bits")
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    split = make_split(**SPLIT)
    data = {}
    for name in ("train", "calibration", "test"):
        images, labels = part_images(split, name)
        data[name] = (tensors(images), torch.from_numpy(labels))

    started = time.perf_counter()
    model = train(*data["train"])
    seconds = time.perf_counter() - started
    accuracy = top1(model, *data["test"])
    print(f"trained {sum(p.numel() for p in model.parameters())} parameters in {seconds:.0f} s")
    print(f"float        test {accuracy:.4f}  calibration {top1(model, *data['calibration']):.4f}")

    options.output.mkdir(parents=True, exist_ok=True)
    checkpoint = options.output / CHECKPOINT_NAME
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, checkpoint)
    DigitsConfig(
        timm_model=TIMM_MODEL,
        timm_args=TIMM_ARGS,
        preprocessing=PREPROCESSING,
        split=split,
        float_test_top1=accuracy,
        training_command="python tools/train_digits.py",
    ).save(options.output / CONFIG_NAME)
    print(f"wrote {checkpoint.stat().st_size} bytes")

    calibration = data["calibration"][0]
    names = list(block_linears(model))
    for bits in (8, 4, 3, 2):
        widths = dict.fromkeys(names, bits)
        tested = quantized_top1(model, widths, calibration, *data["test"])
        print(f"uniform {bits}-bit test {tested:.4f}", flush=True)
    if options.single:
        for name in names:
            tested = quantized_top1(model, {name: 2}, calibration, *data["test"])
            print(f"  only {name} at 2 bits: test {tested:.4f}")


if __name__ == "__main__":
    main()
