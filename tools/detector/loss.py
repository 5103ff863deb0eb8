"""Match queries with objects, and compute the training loss."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tools.detector.data import Targets
from tools.detector.learner import PATCH, Learner
from tools.scenes import CLASSES, SIZE

NO_OBJECT_WEIGHT = 0.15
OTHERS_WEIGHT = 0.75
L1_WEIGHT, GIOU_WEIGHT, PATCH_WEIGHT = 5.0, 2.0, 1.0

STEP = 0.1
"""Unit of a patch's distance to the centre of its object, as a share of the image."""


def corners(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    centre, size = boxes[..., :2], boxes[..., 2:]
    return centre - size / 2, centre + size / 2


def area(sizes: torch.Tensor) -> torch.Tensor:
    """Products of widths and heights (..., 2); the gradient of `prod` waits for the device to look for zeros."""
    return sizes[..., 0] * sizes[..., 1]


def generalized_iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Generalized IoU of broadcast boxes (..., 4)."""
    (low, high), (other_low, other_high) = corners(first), corners(second)
    shared = area((torch.minimum(high, other_high) - torch.maximum(low, other_low)).clamp_min(0))
    union = area(first[..., 2:]) + area(second[..., 2:]) - shared
    hull = area(torch.maximum(high, other_high) - torch.minimum(low, other_low))
    return shared / union.clamp_min(1e-9) - (hull - union) / hull.clamp_min(1e-9)


@torch.no_grad()
def assign(probability: torch.Tensor, boxes: torch.Tensor, targets: Targets) -> torch.Tensor:
    """One query for each object, int64 (n, t): the cheapest pair first, then the cheapest of the rest.

    With a handful of objects an image this is nearly the optimal assignment, and it never leaves the device.
    """
    known = targets.classes >= 0
    classes = targets.classes.clamp_min(0)
    probability = probability.gather(2, classes[:, None].expand(-1, probability.shape[1], -1))
    distance = (boxes[:, :, None] - targets.boxes[:, None]).abs().sum(-1)
    overlap = generalized_iou(boxes[:, :, None], targets.boxes[:, None])
    cost = L1_WEIGHT * distance - GIOU_WEIGHT * overlap - probability
    cost = cost.masked_fill(~known[:, None], 1e6)
    chosen = torch.zeros_like(classes)
    queries, objects = cost.shape[1:]
    for _ in range(objects):
        query, which = (index := cost.flatten(1).argmin(1, keepdim=True)) // objects, index % objects
        chosen.scatter_(1, which, query)
        cost.scatter_(1, query[..., None].expand(-1, 1, objects), 2e6)
        cost.scatter_(2, which[:, None].expand(-1, queries, 1), 2e6)
    return chosen


def answer_loss(
    logits: torch.Tensor, boxes: torch.Tensor, targets: Targets, chosen: torch.Tensor, *, background: bool
) -> torch.Tensor:
    known = targets.classes >= 0
    total = known.sum().clamp_min(1)
    own = boxes.gather(1, chosen[..., None].expand(-1, -1, 4))
    overlap = generalized_iou(own, targets.boxes)
    scores = class_loss if background else quality_loss
    distance = ((own - targets.boxes).abs().sum(-1) * known).sum() / total
    missing = ((1 - overlap) * known).sum() / total
    return scores(logits, targets, chosen, overlap.detach()) + L1_WEIGHT * distance + GIOU_WEIGHT * missing


def class_loss(logits: torch.Tensor, targets: Targets, chosen: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over the classes and "no object"."""
    known = targets.classes >= 0
    wanted = torch.full(logits.shape[:2], len(CLASSES), device=logits.device)
    # Padding writes into a column of its own, which is dropped.
    place = torch.where(known, chosen, logits.shape[1])
    wanted = F.pad(wanted, (0, 1)).scatter(1, place, targets.classes.clamp_min(0))[:, :-1]
    weight = torch.ones(len(CLASSES) + 1, device=logits.device)
    weight[-1] = NO_OBJECT_WEIGHT
    return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), weight)


def quality_loss(logits: torch.Tensor, targets: Targets, chosen: torch.Tensor, overlap: torch.Tensor) -> torch.Tensor:
    """Varifocal loss: the score of an object's class is to be the overlap of its box, every other score 0."""
    known = targets.classes >= 0
    place = torch.where(known, chosen, logits.shape[1])
    wanted = F.pad(torch.zeros_like(logits), (0, 0, 0, 1))
    rows = torch.arange(len(logits), device=logits.device)[:, None].expand_as(place)
    wanted[rows, place, targets.classes.clamp_min(0)] = overlap.clamp_min(0)
    wanted = wanted[:, :-1]
    weight = torch.where(wanted > 0, wanted, OTHERS_WEIGHT * logits.detach().sigmoid().square())
    losses = F.binary_cross_entropy_with_logits(logits, wanted, weight, reduction="sum")
    return losses / known.sum().clamp_min(1)


def patch_loss(answers: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Loss of the patches: each names the smallest object that contains its centre, and says where it is from there."""
    side = SIZE // PATCH
    centres = (torch.arange(side, device=answers.device) + 0.5) / side
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    points = torch.stack([x.flatten(), y.flatten()], 1)[None, :, None]
    low, high = (corner[:, None] for corner in corners(targets.boxes))
    inside = (points > low).all(-1) & (points < high).all(-1) & (targets.classes >= 0)[:, None]
    sizes = area(targets.boxes[..., 2:])[:, None].expand_as(inside)
    owner = sizes.masked_fill(~inside, float("inf")).argmin(-1)
    owned = inside.any(-1)
    wanted = torch.where(owned, targets.classes.gather(1, owner), len(CLASSES))
    scores, raw = answers[..., : len(CLASSES) + 1], answers[..., len(CLASSES) + 1 :]
    boxes = torch.cat([points[:, :, 0] + STEP * raw[..., :2], raw[..., 2:].sigmoid()], -1)
    loss = F.cross_entropy(scores.flatten(0, 1), wanted.flatten())
    truth = targets.boxes.gather(1, owner[..., None].expand(-1, -1, 4))
    distance = (boxes - truth).abs().sum(-1) - 0.4 * generalized_iou(boxes, truth)
    return loss + L1_WEIGHT * (distance * owned).sum() / owned.sum().clamp_min(1)


def loss_of(model: Learner, images: torch.Tensor, targets: Targets) -> torch.Tensor:
    answers, patches = model(images)
    # Earlier blocks learn the same pairs, so that a query does not change its object from block to block.
    logits, boxes = answers[0]
    chosen = assign(logits.softmax(-1) if model.background else 2 * logits.sigmoid(), boxes, targets)
    own = sum(answer_loss(*answer, targets, chosen, background=model.background) for answer in answers)
    return own + PATCH_WEIGHT * patch_loss(patches, targets)
