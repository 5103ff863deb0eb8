"""Detection: a class and a box for each query."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from lampq_onnx.evaluation.tasks.boxes import BOX_SCALE, SMALLEST, paired
from lampq_onnx.frontend.likelihoods.classification import image_kl, sampled_labels
from lampq_onnx.frontend.likelihoods.multi_label import bernoulli_kl


@dataclass(frozen=True)
class QueryTargets:
    """Sampled answers, in place of annotations.

    Attributes:
        classes: int64 (n, queries) with "no object" as the last class, or yes and no as float32 (n, queries, classes).
        boxes: float32 (n, queries, 4), center and size as fractions of the input.
        objects: bool (n, queries), whether the query is an object; only objects have a box.
        scale: float32 (n, queries, 4), scale of the distributions of the boxes.
    """

    classes: torch.Tensor
    boxes: torch.Tensor
    objects: torch.Tensor
    scale: torch.Tensor


class DetectionLikelihood:
    """Joined outputs (n, queries, classes + 4) of a detector with queries (YOLOS, DETR).

    p(y|x) is a class for each query and, if that class is an object, a box around the query's own box: centre and size
    have Cauchy distributions whose scale is `BOX_SCALE` of the box's width and height. AP at strict overlaps falls with
    small shifts already, and a box that is lost cannot be lost twice: a Gaussian would count the former too little and
    the latter too much. Every query labels itself, so no matching is needed, and the expectation is over the model's
    own distribution, as the Fisher information requires. The KL has a closed form: log(1 + (shift / scale)^2 / 4). For
    it, the queries of two models are paired so that it is smallest, because detectors that choose their queries by
    scores sort them anew after every change.

    Args:
        background: True for a softmax whose last class is "no object"; False for sigmoids, where a query is an object
            if any class is yes.
    """

    def __init__(self, *, background: bool) -> None:
        self._background = background

    def sample(self, outputs: torch.Tensor, generator: torch.Generator) -> QueryTargets:
        """Draw classes and boxes; see `Likelihood.sample`."""
        scores, boxes = (part.detach() for part in _split(outputs))
        if self._background:
            rows = scores.reshape(-1, scores.shape[-1])
            classes = sampled_labels(rows, generator).reshape(scores.shape[:2])
            objects = classes < scores.shape[-1] - 1
        else:
            classes = torch.bernoulli(scores.sigmoid().cpu(), generator=generator).to(scores.device)
            objects = classes.any(-1)
        scale = _scale(boxes)
        drawn = boxes + scale * torch.empty(boxes.shape).cauchy_(generator=generator).to(boxes.device)
        return QueryTargets(classes, drawn, objects, scale)

    def nll(self, outputs: torch.Tensor, targets: QueryTargets) -> torch.Tensor:
        """Negative log-likelihood; see `Likelihood.nll`."""
        scores, boxes = _split(outputs)
        if self._background:
            answers = functional.cross_entropy(scores.flatten(0, 1), targets.classes.flatten(), reduction="sum")
        else:
            answers = functional.binary_cross_entropy_with_logits(scores, targets.classes, reduction="sum")
        change = ((boxes - targets.boxes) / targets.scale).square().log1p().sum(-1)
        return answers + (change * targets.objects).sum()

    def distance(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """KL of each image; see `Likelihood.distance`."""
        outputs = self._paired(outputs, reference)
        (scores, boxes), (wanted, true) = (
            (values[..., :-4].double(), values[..., -4:].double()) for values in (outputs, reference)
        )
        answers = image_kl(scores, wanted) if self._background else bernoulli_kl(scores, wanted).sum(-1)
        return (answers + self._box_distance(boxes, wanted, true)).sum(-1)

    def training_loss(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Mean KL; see `Likelihood.training_loss`."""
        (scores, boxes), (wanted, true) = _split(self._paired(outputs, reference)), _split(reference)
        if self._background:
            p, q = wanted.log_softmax(-1), scores.log_softmax(-1)
            answers = (p.exp() * (p - q)).sum(-1)
        else:
            answers = bernoulli_kl(scores, wanted).sum(-1)
        return (answers + self._box_distance(boxes, wanted, true)).sum(-1).mean()

    def _paired(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """The queries in the reference's order; the pairs themselves have no gradient."""
        own, wanted = (values.detach().float().cpu().numpy() for values in (outputs, reference))
        pairs = torch.from_numpy(paired(wanted, own, background=self._background)).to(outputs.device)
        return outputs.gather(1, pairs[..., None].expand_as(outputs))

    def _box_distance(self, boxes: torch.Tensor, wanted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        chance = 1 - wanted.softmax(-1)[..., -1] if self._background else wanted.sigmoid().amax(-1)
        return chance * (((boxes - true) / _scale(true)).square() / 4).log1p().sum(-1)


def _split(outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return outputs[..., :-4].float(), outputs[..., -4:].float()


def _scale(boxes: torch.Tensor) -> torch.Tensor:
    size = boxes[..., 2:].clamp_min(SMALLEST)
    return BOX_SCALE * torch.cat([size, size], -1)
