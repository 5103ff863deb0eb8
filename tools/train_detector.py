"""Train a small detector for the shapes of tools/scenes.py: YOLOS, Conditional DETR or RT-DETR.

    python -m tools.train_detector --device cuda --output models/scenes
    python -m tools.train_detector rt-detr --device cuda --output models/scenes-rt-detr
    python -m tools.train_detector conditional-detr --device cuda --output models/scenes-detr

This needs torch, transformers and NumPy, and about five minutes of an H200. The result is a folder that transformers'
`from_pretrained` reads: config.json, float16 weights in model.safetensors, preprocessor_config.json, and training.json
with the average precision of exactly these weights.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import time
from pathlib import Path

import torch
from torch import nn

from tools.detector.conditional_detr import conditional_detr
from tools.detector.data import TRAIN_SEED, VALIDATION_SEED, Targets, augmented, batches, draw, to_tensors
from tools.detector.judge import Judge
from tools.detector.rt_detr import rt_detr
from tools.detector.step import Gradients
from tools.detector.yolos import yolos

DECAY, WARMUP = 0.05, 400
AVERAGE_DECAY = 0.999
ARCHITECTURES = {
    "yolos": (yolos, 144, 8, 1e-3),
    "conditional-detr": (conditional_detr, 128, 3, 6e-4),
    "rt-detr": (rt_detr, 96, 3, 6e-4),
}
"""Name -> what builds it, its width, its depth (RT-DETR: that of its decoder), and the highest learning rate."""

WAITING = 50
"""Number of steps after which Python waits for the device, so that it knows how far the training is."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the detector of generated scenes.")
    parser.add_argument("architecture", nargs="?", choices=ARCHITECTURES, default="yolos")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scenes", type=int, default=30000)
    parser.add_argument("--steps", type=int, default=40000, help="largest number of steps")
    parser.add_argument("--minutes", type=float, default=7.0, help="time for the training, the drawing included")
    parser.add_argument("--rate", type=float, help="highest learning rate")
    parser.add_argument("--eager", action="store_true", help="on a GPU: record no graph")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--hidden", type=int, help="width of the layers")
    parser.add_argument("--depth", type=int, help="number of blocks")
    parser.add_argument("--validation", type=int, default=500)
    parser.add_argument("--every", type=float, default=40, help="number of seconds between evaluations")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def rate_at(step: int, done: float) -> float:
    """Learning rate as a share of the highest one: a warmup, then half a cosine down to a hundredth.

    Args:
        done: share of the training that is behind.
    """
    return min(1.0, step / WARMUP) * (0.01 + 0.495 * (1 + math.cos(math.pi * min(done, 1.0))))


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, step: int) -> None:
    """Move the running average of the weights; it starts quickly."""
    decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
    own, other = ([*part.parameters(), *part.buffers()] for part in (average, model))
    pairs = [(a, b.detach()) for a, b in zip(own, other, strict=True) if a.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in pairs], [b for _, b in pairs], 1 - decay)


def main() -> None:
    options = arguments()
    started = time.perf_counter()
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    device = torch.device(options.device)
    # Both are drawn before anything is on the device: processes that draw are copies of this one.
    scenes = draw(TRAIN_SEED, options.scenes, options.workers)
    validation = draw(VALIDATION_SEED, options.validation, options.workers)
    images, targets = to_tensors(scenes, device)
    build, hidden, depth, rate = ARCHITECTURES[options.architecture]
    model = build(options.hidden or hidden, options.depth or depth).to(device).train()
    judge = Judge(validation, device, options.output, background=model.background)
    print(f"drew {options.scenes} + {options.validation} scenes in {time.perf_counter() - started:.0f} s", flush=True)
    average = copy.deepcopy(model.network).eval()
    print(f"{sum(p.numel() for p in average.parameters())} parameters", flush=True)
    optimizer = optimizer_of(model)
    random = torch.Generator(device).manual_seed(0)
    on_gpu = device.type == "cuda"
    # Boxes that are refined from layer to layer need more digits than bfloat16 has.
    gradients = Gradients(model, half=on_gpu and model.background, recorded=on_gpu and not options.eager)
    total, counted = torch.zeros((), device=device), 0
    judged = time.perf_counter()
    first, done = judged, 0.0
    for step, chosen in enumerate(batches(len(images), options.batch, random, device), 1):
        for group in optimizer.param_groups:
            group["lr"] = (options.rate or rate) * rate_at(step, done)
        batch, truth = augmented(images[chosen], Targets(targets.boxes[chosen], targets.classes[chosen]), random)
        loss = gradients(batch, truth)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        follow(average, model.network, step)
        total, counted = total + loss, counted + 1
        if step % WAITING and step < options.steps:
            done = max(done, step / options.steps)
            continue
        mean, now = float(total) / counted, time.perf_counter()
        done = max(step / options.steps, (now - started) / (60 * options.minutes))
        if done >= 1 or now - judged > options.every:
            pace = 1000 * (now - first) / step
            figures = judge(average, step)
            print(f"step {step:6d}  loss {mean:.4f}  {figures}  {done:.0%}, {pace:.1f} ms a step", flush=True)
            total, counted, judged = torch.zeros((), device=device), 0, time.perf_counter()
            first += judged - now
        if done >= 1:
            break
    print(f"wrote {judge.bytes} bytes", flush=True)


if __name__ == "__main__":
    main()
