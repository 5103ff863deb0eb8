"""Match queries with objects, and compute the training loss."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tools.detector.data import Targets
from tools.detector.model import PATCH, Detector
from tools.scenes import CLASSES, SIZE

NO_OBJECT_WEIGHT = 0.15
L1_WEIGHT, GIOU_WEIGHT, PATCH_WEIGHT = 5.0, 2.0, 1.0


def corners(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    centre, size = boxes[..., :2], boxes[..., 2:]
    return centre - size / 2, centre + size / 2


def generalized_iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Generalized IoU of broadcast boxes (..., 4)."""
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
    """Loss of the patches, each of which names the smallest object that contains its centre."""
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
