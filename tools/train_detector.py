"""Train the small YOLOS of models/scenes: a plain Vision Transformer that detects the shapes of tools/scenes.py.

    python -m tools.train_detector --device cuda --output models/scenes

needs torch, transformers and NumPy, and about eight minutes of an H100. The result is a folder that transformers'
`from_pretrained` reads: config.json, float16 weights in model.safetensors, preprocessor_config.json, and training.json
with the average precision of exactly these weights.

Queries alone learn slowly from scratch. Three things that the finished model does not contain speed them up: queries
start at the points of a grid, the last blocks before the end are supervised as well, and every patch has to tell the
object that it lies in.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F
from transformers import YolosConfig, YolosForObjectDetection

from tools.scenes import CLASSES, MOST_OBJECTS, SIZE, Scene, scene

TRAIN_SEED, VALIDATION_SEED = 0, 3
PATCH = 8
QUERY_GRID = 5
SUPERVISED_BLOCKS = (4, 6)
"""Blocks whose outputs are supervised besides the last one's."""

NO_OBJECT_WEIGHT = 0.15
L1_WEIGHT, GIOU_WEIGHT, PATCH_WEIGHT = 5.0, 2.0, 1.0
RATE, DECAY, WARMUP = 1e-3, 0.05, 400
AVERAGE_DECAY = 0.999
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class Targets:
    """Objects of a batch, padded.

    Attributes:
        boxes: float32 (n, t, 4), centre, width and height as shares of the image.
        classes: int64 (n, t), -1 where there is no object.
    """

    boxes: torch.Tensor
    classes: torch.Tensor


class Detector(nn.Module):
    """YOLOS, and what only the training needs."""

    def __init__(self, config: YolosConfig) -> None:
        super().__init__()
        self.yolos = YolosForObjectDetection(config)
        self.patch_head = nn.Linear(config.hidden_size, len(CLASSES) + 1 + 4)
        self.queries = config.num_detection_tokens
        self._seen: dict[int, torch.Tensor] = {}
        for index in SUPERVISED_BLOCKS:
            if index < config.num_hidden_layers:
                self.yolos.vit.encoder.layer[index - 1].register_forward_hook(self._keep(index))
        place_tokens(self.yolos)

    def _keep(self, index: int) -> Callable[[nn.Module, object, torch.Tensor], None]:
        def hook(_: nn.Module, __: object, output: torch.Tensor) -> None:
            self._seen[index] = output

        return hook

    def forward(self, images: torch.Tensor) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
        """Scores and boxes of the queries, last block first, and the patches' own answers (n, patches, classes + 5)."""
        self._seen.clear()
        last = self.yolos.vit(images).last_hidden_state
        earlier = [self.yolos.vit.layernorm(value) for value in self._seen.values()]
        answers = []
        for tokens in (last, *earlier):
            queries = tokens[:, -self.queries :]
            boxes = self.yolos.bbox_predictor(queries).float().sigmoid()
            answers.append((self.yolos.class_labels_classifier(queries).float(), boxes))
        return answers, self.patch_head(last[:, 1 : -self.queries]).float()


def configuration(*, hidden: int, depth: int) -> YolosConfig:
    return YolosConfig(
        hidden_size=hidden,
        num_hidden_layers=depth,
        num_attention_heads=3,
        intermediate_size=4 * hidden,
        image_size=[SIZE, SIZE],
        patch_size=PATCH,
        num_detection_tokens=QUERY_GRID**2,
        use_mid_position_embeddings=False,
        layer_norm_eps=1e-6,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: i for i, name in enumerate(CLASSES)},
    )


@torch.no_grad()
def place_tokens(model: YolosForObjectDetection) -> None:
    """Positions of patches and queries from sines and cosines of the same plane."""
    embeddings = model.vit.embeddings
    width = model.config.hidden_size
    side = SIZE // PATCH
    position = embeddings.position_embeddings
    position.zero_()
    position[0, 1 : 1 + side * side] = 0.5 * sine_positions(side, width)
    position[0, 1 + side * side :] = 0.5 * sine_positions(QUERY_GRID, width)
    nn.init.normal_(embeddings.detection_tokens, std=0.02)


def sine_positions(side: int, width: int) -> torch.Tensor:
    """(side * side, width) of the centres of a grid of cells over the unit square."""
    centres = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    frequencies = math.pi * torch.logspace(0, 1.2, width // 4, base=10)
    phases = [axis.reshape(-1, 1) * frequencies for axis in (x, y)]
    return torch.cat([f(phase) for phase in phases for f in (torch.sin, torch.cos)], 1)


def corners(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    centre, size = boxes[..., :2], boxes[..., 2:]
    return centre - size / 2, centre + size / 2


def generalized_iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Of broadcast boxes (..., 4)."""
    (low, high), (other_low, other_high) = corners(first), corners(second)
    shared = (torch.minimum(high, other_high) - torch.maximum(low, other_low)).clamp_min(0).prod(-1)
    union = first[..., 2:].prod(-1) + second[..., 2:].prod(-1) - shared
    hull = (torch.maximum(high, other_high) - torch.minimum(low, other_low)).prod(-1)
    return shared / union.clamp_min(1e-9) - (hull - union) / hull.clamp_min(1e-9)


@torch.no_grad()
def assign(logits: torch.Tensor, boxes: torch.Tensor, targets: Targets) -> torch.Tensor:
    """One query for each object, int64 (n, t): the cheapest pair first, then the cheapest of the rest.

    With a handful of objects an image this is nearly the optimal assignment, and it never leaves the device.
    """
    known = targets.classes >= 0
    classes = targets.classes.clamp_min(0)
    probability = logits.softmax(-1).gather(2, classes[:, None].expand(-1, logits.shape[1], -1))
    distance = (boxes[:, :, None] - targets.boxes[:, None]).abs().sum(-1)
    overlap = generalized_iou(boxes[:, :, None], targets.boxes[:, None])
    cost = L1_WEIGHT * distance - GIOU_WEIGHT * overlap - probability
    cost = cost.masked_fill(~known[:, None], 1e6)
    count, objects = cost.shape[0], cost.shape[2]
    chosen = torch.zeros_like(classes)
    rows = torch.arange(count, device=cost.device)
    for _ in range(objects):
        query, which = (index := cost.flatten(1).argmin(1)) // objects, index % objects
        chosen[rows, which] = query
        cost[rows, query] = 2e6
        cost[rows, :, which] = 2e6
    return chosen


def answer_loss(logits: torch.Tensor, boxes: torch.Tensor, targets: Targets, chosen: torch.Tensor) -> torch.Tensor:
    known = targets.classes >= 0
    total = known.sum().clamp_min(1)
    wanted = torch.full(logits.shape[:2], len(CLASSES), device=logits.device)
    # Padding writes into a column of its own, which is dropped.
    place = torch.where(known, chosen, logits.shape[1])
    wanted = F.pad(wanted, (0, 1)).scatter(1, place, targets.classes.clamp_min(0))[:, :-1]
    weight = torch.ones(len(CLASSES) + 1, device=logits.device)
    weight[-1] = NO_OBJECT_WEIGHT
    loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), weight)
    own = boxes.gather(1, chosen[..., None].expand(-1, -1, 4))
    distance = ((own - targets.boxes).abs().sum(-1) * known).sum() / total
    overlap = ((1 - generalized_iou(own, targets.boxes)) * known).sum() / total
    return loss + L1_WEIGHT * distance + GIOU_WEIGHT * overlap


def patch_loss(answers: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Every patch tells the smallest object that its centre lies in."""
    side = SIZE // PATCH
    centres = (torch.arange(side, device=answers.device) + 0.5) / side
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    points = torch.stack([x.flatten(), y.flatten()], 1)[None, :, None]
    low, high = (corner[:, None] for corner in corners(targets.boxes))
    inside = (points > low).all(-1) & (points < high).all(-1) & (targets.classes >= 0)[:, None]
    area = targets.boxes[..., 2:].prod(-1)[:, None].expand_as(inside)
    owner = area.masked_fill(~inside, float("inf")).argmin(-1)
    owned = inside.any(-1)
    wanted = torch.where(owned, targets.classes.gather(1, owner), len(CLASSES))
    scores, boxes = answers[..., : len(CLASSES) + 1], answers[..., len(CLASSES) + 1 :].sigmoid()
    loss = F.cross_entropy(scores.flatten(0, 1), wanted.flatten())
    truth = targets.boxes.gather(1, owner[..., None].expand(-1, -1, 4))
    distance = (boxes - truth).abs().sum(-1) - 0.4 * generalized_iou(boxes, truth)
    return loss + L1_WEIGHT * (distance * owned).sum() / owned.sum().clamp_min(1)


def loss_of(model: Detector, images: torch.Tensor, targets: Targets) -> torch.Tensor:
    answers, patches = model(images)
    # Earlier blocks learn the same pairs, so that a query does not change its object from block to block.
    chosen = assign(*answers[0], targets)
    own = sum(answer_loss(logits, boxes, targets, chosen) for logits, boxes in answers)
    return own + PATCH_WEIGHT * patch_loss(patches, targets)


def draw(seed: int, count: int, workers: int) -> list[Scene]:
    """Scenes 0 to ``count`` of a series, drawn by several processes."""
    work = [(seed, index) for index in range(count)]
    if workers < 2:
        return [scene(*item) for item in work]
    with get_context("spawn").Pool(workers) as pool:
        return pool.starmap(scene, work, chunksize=64)


def to_tensors(scenes: list[Scene], device: torch.device) -> tuple[torch.Tensor, Targets]:
    images = torch.from_numpy(np.stack([each.image for each in scenes])).to(device)
    boxes = torch.full((len(scenes), MOST_OBJECTS, 4), 0.5)
    classes = torch.full((len(scenes), MOST_OBJECTS), -1)
    for i, each in enumerate(scenes):
        n = len(each.boxes)
        centred = np.concatenate([each.boxes[:, :2] + each.boxes[:, 2:] / 2, each.boxes[:, 2:]], 1) / SIZE
        boxes[i, :n] = torch.from_numpy(centred)
        classes[i, :n] = torch.from_numpy(each.classes)
    return images, Targets(boxes.to(device), classes.to(device))


def normalized(images: torch.Tensor) -> torch.Tensor:
    """float32 (n, 3, h, w) from uint8 (n, h, w, 3)."""
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (MEAN, STD))
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def augmented(images: torch.Tensor, targets: Targets, random: torch.Generator) -> tuple[torch.Tensor, Targets]:
    """The square's eight symmetries, and channels swapped or inverted; uint8 in and out."""
    count = len(images)

    def coin() -> torch.Tensor:
        return torch.rand(count, generator=random, device=images.device) < 0.5

    across, down, turned, inverted = (coin() for _ in range(4))
    cx, cy, w, h = targets.boxes.unbind(-1)
    images = torch.where(across[:, None, None, None], images.flip(2), images)
    cx = torch.where(across[:, None], 1 - cx, cx)
    images = torch.where(down[:, None, None, None], images.flip(1), images)
    cy = torch.where(down[:, None], 1 - cy, cy)
    images = torch.where(turned[:, None, None, None], images.transpose(1, 2), images)
    swap = turned[:, None]
    cx, cy, w, h = (torch.where(swap, a, b) for a, b in ((cy, cx), (cx, cy), (h, w), (w, h)))
    order = torch.rand(count, 3, generator=random, device=images.device).argsort(1)
    images = images.gather(3, order[:, None, None].expand_as(images))
    images = torch.where(inverted[:, None, None, None], 255 - images, images)
    return images, Targets(torch.stack([cx, cy, w, h], -1), targets.classes)


def batches(count: int, size: int, random: torch.Generator, device: torch.device) -> Iterator[torch.Tensor]:
    while True:
        order = torch.randperm(count, generator=random, device=device)
        yield from order[: count // size * size].split(size)


@torch.inference_mode()
def detections(
    model: YolosForObjectDetection, images: torch.Tensor
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Scores (n, q), classes (n, q) and boxes (n, q, 4), left, top, right, bottom as shares of the image."""
    scores, classes, boxes = [], [], []
    for part in images.split(100):
        answer = model(normalized(part))
        score, kind = answer.logits.float().softmax(-1)[..., :-1].max(-1)
        scores.append(score)
        classes.append(kind)
        boxes.append(torch.cat(corners(answer.pred_boxes.float()), -1))
    return tuple(torch.cat(values).cpu().numpy() for values in (scores, classes, boxes))  # type: ignore[return-value]


def average_precision(found: tuple[np.ndarray, ...], scenes: list[Scene], threshold: float) -> float:
    """Mean over classes of the precision interpolated at 101 recalls, as COCO defines it."""
    scores, classes, boxes = found
    values = []
    for kind in range(len(CLASSES)):
        truth = [each.boxes[each.classes == kind] / SIZE for each in scenes]
        total = sum(map(len, truth))
        taken = [np.zeros(len(own), dtype=bool) for own in truth]
        image, query = np.nonzero(classes == kind)
        right = []
        for i, q in sorted(zip(image, query, strict=True), key=lambda pair: -scores[pair]):
            overlaps = np.array([iou(boxes[i, q], own) for own in truth[i]])
            overlaps[taken[i]] = -1
            best = int(overlaps.argmax()) if len(overlaps) else -1
            hit = best >= 0 and overlaps[best] >= threshold
            if hit:
                taken[i][best] = True
            right.append(hit)
        hits = np.cumsum(right)
        recall, precision = hits / max(total, 1), hits / np.arange(1, len(hits) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
        values.append(np.where(at < len(precision), np.append(precision, 0)[np.minimum(at, len(precision))], 0).mean())
    return float(np.mean(values))


def iou(box: np.ndarray, other: np.ndarray) -> float:
    """Of left, top, right, bottom with left, top, width, height."""
    low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[:2] + other[2:])
    shared = np.clip(high - low, 0, None).prod()
    return float(shared / ((box[2:] - box[:2]).prod() + other[2:].prod() - shared))


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, step: int) -> None:
    """Move the running average of the weights; it starts quickly."""
    decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
    pairs = list(zip(average.parameters(), model.parameters(), strict=True))
    torch._foreach_lerp_([a for a, _ in pairs], [b.detach() for _, b in pairs], 1 - decay)


def save(model: YolosForObjectDetection, folder: Path, record: dict[str, object]) -> int:
    """Write the folder with float16 weights; returns the bytes of the weights."""
    half = copy.deepcopy(model).half()
    half.save_pretrained(folder)
    preprocessor = {
        "image_processor_type": "YolosImageProcessor",
        "do_resize": True,
        "size": {"height": SIZE, "width": SIZE},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
        "do_pad": False,
    }
    for name, content in (("preprocessor_config.json", preprocessor), ("training.json", record)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    return (folder / "model.safetensors").stat().st_size


def rounded(model: YolosForObjectDetection) -> YolosForObjectDetection:
    """The model with its weights as float16 stores them."""
    return copy.deepcopy(model).half().float().eval()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the detector of generated scenes.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scenes", type=int, default=30000)
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--minutes", type=float, default=7.0, help="steps are cut so that they fit into this time")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=144)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--validation", type=int, default=500)
    parser.add_argument("--every", type=int, default=1000, help="steps between evaluations")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, RATE, betas=(0.9, 0.98))


def rate_at(step: int, steps: int) -> float:
    """Warmup, then half a cosine down to a hundredth."""
    return RATE * min(1.0, step / WARMUP) * (0.01 + 0.495 * (1 + math.cos(math.pi * min(step / steps, 1.0))))


class Judge:
    """Evaluates the averaged weights as they are stored, and keeps the best ones in the folder."""

    def __init__(self, scenes: list[Scene], device: torch.device, folder: Path) -> None:
        self._scenes = scenes
        self._images, _ = to_tensors(scenes, device)
        self._folder = folder
        self._best = -1.0
        self.bytes = 0

    def __call__(self, model: YolosForObjectDetection, step: int, steps: int) -> str:
        """Evaluate, save if it is the best so far; returns the figures as text."""
        found = detections(rounded(model), self._images)
        at50, at75 = (average_precision(found, self._scenes, threshold) for threshold in (0.5, 0.75))
        if at50 + at75 > self._best:
            self._best = at50 + at75
            device = self._images.device
            self.bytes = save(model, self._folder, {
                "command": "python -m tools.train_detector " + shlex.join(sys.argv[1:]),
                "torch": torch.__version__,
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
                "step": step,
                "steps": steps,
                "validation_seed": VALIDATION_SEED,
                "validation_scenes": len(self._scenes),
                "AP50": round(at50, 4),
                "AP75": round(at75, 4),
            })  # fmt: skip
        return f"AP50 {at50:.4f}  AP75 {at75:.4f}"


def main() -> None:
    options = arguments()
    started = time.perf_counter()
    torch.manual_seed(0)
    device = torch.device(options.device)
    images, targets = to_tensors(draw(TRAIN_SEED, options.scenes, options.workers), device)
    judge = Judge(draw(VALIDATION_SEED, options.validation, options.workers), device, options.output)
    print(f"drew {options.scenes} + {options.validation} scenes in {time.perf_counter() - started:.0f} s", flush=True)
    model = Detector(configuration(hidden=options.hidden, depth=options.depth)).to(device).train()
    average = copy.deepcopy(model.yolos).eval()
    print(f"{sum(p.numel() for p in average.parameters())} parameters", flush=True)
    optimizer = optimizer_of(model)
    random = torch.Generator(device).manual_seed(0)
    steps = options.steps
    total, counted = torch.zeros((), device=device), 0
    begun = time.perf_counter()
    for step, chosen in enumerate(batches(len(images), options.batch, random, device), 1):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps)
        batch, truth = augmented(images[chosen], Targets(targets.boxes[chosen], targets.classes[chosen]), random)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_of(model, normalized(batch), truth)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        follow(average, model.yolos, step)
        # Nothing leaves the device between two reports.
        total, counted = total + loss.detach(), counted + 1
        if step in (100, 300):
            mean = float(total) / counted
            seconds = (time.perf_counter() - begun) / step
            print(f"step {step}: {1000 * seconds:.1f} ms a step, loss {mean:.3f}", flush=True)
            fits = int((60 * options.minutes - (begun - started)) / seconds)
            if fits < steps:
                steps = max(fits, step)
                print(f"{steps} steps fit into {options.minutes:g} minutes", flush=True)
        if step % options.every == 0 or step >= steps:
            mean = float(total) / counted
            total, counted = torch.zeros((), device=device), 0
            figures = judge(average, step, steps)
            minutes = (time.perf_counter() - started) / 60
            print(f"step {step:6d}  loss {mean:.4f}  {figures}  {minutes:.1f} min", flush=True)
        if step >= steps:
            break
    print(f"wrote {judge.bytes} bytes", flush=True)


if __name__ == "__main__":
    main()
