"""Each likelihood's sampling, gradients and distance agree with each other, as those of one distribution must."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from lampq_onnx.artifacts.task import Kind, TaskName, TaskSpec
from lampq_onnx.data import Batch
from lampq_onnx.evaluation.tasks.boxes import detection_kl, paired
from lampq_onnx.evaluation.tasks.meters import METERS
from lampq_onnx.evaluation.tasks.several import SeveralMeter
from lampq_onnx.frontend.likelihoods import CLASSES, Likelihood, answers_of, likelihood_for, likelihood_of

DETECTION = TaskSpec(kind="detection", outputs=("logits", "pred_boxes"))
SPECS = {
    "classification": TaskSpec(),
    "binary": TaskSpec(kind="binary"),
    "multi-label": TaskSpec(kind="multi-label"),
    "regression": TaskSpec(kind="regression", spread=(0.5, 2.0, 1.0)),
    "binary-segmentation": TaskSpec(kind="binary-segmentation"),
    "dense-regression": TaskSpec(kind="dense-regression", spread=(0.5, 2.0)),
    "depth": TaskSpec(kind="dense-regression", spread=(0.5,)),
    "embedding": TaskSpec(kind="embedding"),
    "segmentation": TaskSpec(kind="segmentation"),
    "features": TaskSpec(kind="features", spread=(0.5, 2.0, 1.0)),
    "feature maps": TaskSpec(kind="features", spread=(0.5, 2.0)),
    "sequence": TaskSpec(kind="sequence", blank=0),
    "several": TaskSpec(
        kind="several",
        outputs=("logits", "tokens"),
        parts=(TaskSpec(shape=(4,)), TaskSpec(kind="features", spread=(0.5, 2.0), shape=(3, 2))),
    ),
    "detection": DETECTION,
    "sigmoid detection": DETECTION.model_copy(update={"background": False}),
}
SHAPES: dict[Kind, tuple[int, ...]] = {
    "classification": (5,), "binary": (1,), "regression": (3,), "binary-segmentation": (1, 2, 3),
    "dense-regression": (2, 3, 2), "multi-label": (4,), "embedding": (6,), "segmentation": (3, 2, 2),
    "detection": (3, 7), "features": (4, 3), "sequence": (4, 3), "several": (10,),
}  # fmt: skip
DRAWS = 4000


def _name(spec: TaskSpec) -> str:
    return next((name for name, own in SPECS.items() if own == spec), "")


def outputs_of(spec: TaskSpec, count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = {"depth": (3, 2), "feature maps": (2, 3, 4)}.get(_name(spec), SHAPES[spec.kind])
    found = torch.randn(count, *shape, generator=generator)
    if spec.kind == "detection":
        found[..., -4:] = 0.3 + 0.1 * torch.rand(count, 3, 4, generator=generator)
    return found


@pytest.mark.parametrize("name", SPECS)
def test_the_distance_is_zero_for_the_same_and_positive_for_others(name: str) -> None:
    spec, likelihood = SPECS[name], likelihood_for(SPECS[name])
    reference, other = outputs_of(spec, 3), outputs_of(spec, 3, seed=1)
    assert likelihood.distance(reference, reference).abs().max() < 1e-12
    found = likelihood.distance(other, reference)
    assert found.shape == (3,)
    assert (found > 0).all()
    assert found.dtype == torch.float64
    assert float(likelihood.training_loss(other, reference)) == pytest.approx(float(found.mean()), rel=1e-4)


@pytest.mark.parametrize("name", SPECS)
def test_sampled_gradients_have_the_curvature_of_the_distance(name: str) -> None:
    """E[(g . d)^2] = d^T F d, and KL(p || p + e d) = e^2 d^T F d / 2 for a small e."""
    spec, likelihood = SPECS[name], likelihood_for(SPECS[name])
    one = outputs_of(spec, 1)
    direction = torch.randn(one.shape, generator=torch.Generator().manual_seed(2))
    if spec.kind == "detection":
        direction[..., -4:] *= 0.02
    if name == "sigmoid detection":
        # A query is an object or not as a whole there, which its sampled answers only approach: see the class.
        direction[..., -4:] = 0
    size = 1e-3
    curvature = 2 * float(likelihood.distance(one + size * direction, one)[0]) / size**2
    many = one.expand(DRAWS, *one.shape[1:]).clone().requires_grad_()
    targets = likelihood.sample(many, torch.Generator().manual_seed(3))
    (gradient,) = torch.autograd.grad(likelihood.nll(many, targets), many)
    products = (gradient * direction).flatten(1).sum(1).square()
    error = float(products.std() / DRAWS**0.5)
    assert abs(float(products.mean()) - curvature) < 4 * error + 0.01 * curvature


def test_the_distances_of_detection_are_those_of_the_meter() -> None:
    for spec in (DETECTION, SPECS["sigmoid detection"]):
        reference, other = outputs_of(spec, 4), outputs_of(spec, 4, seed=1)
        found = likelihood_for(spec).distance(other, reference).numpy()
        pairs = paired(reference.numpy(), other.numpy(), background=spec.background)
        other = other.gather(1, torch.from_numpy(pairs)[..., None].expand_as(other))
        np.testing.assert_allclose(found, detection_kl(reference.numpy(), other.numpy(), spec), rtol=1e-6)


def test_queries_in_another_order_are_the_same_answer() -> None:
    for spec in (DETECTION, SPECS["sigmoid detection"]):
        reference, other = outputs_of(spec, 4), outputs_of(spec, 4)
        other[..., 0] += 0.05
        likelihood = likelihood_for(spec)
        found, shuffled = (likelihood.distance(values, reference) for values in (other, other[:, [2, 0, 1]]))
        assert torch.equal(found, shuffled)
        pairs = paired(reference.numpy(), other[:, [2, 0, 1]].numpy(), background=spec.background)
        assert pairs.tolist() == [[1, 2, 0]] * 4
        # The pairs minimize what the meter counts.
        orders = torch.tensor(list(permutations(range(3))))
        every = [detection_kl(reference.numpy(), other[:, order].numpy(), spec) for order in orders]
        np.testing.assert_allclose(found.numpy(), np.min(every, 0), rtol=1e-6)


@pytest.mark.parametrize("name", [n for n in SPECS if SPECS[n].kind in METERS and n != "classification"] + ["several"])
def test_the_distances_are_those_of_the_meter(name: str) -> None:
    spec = SPECS[name]
    reference, other = outputs_of(spec, 5), outputs_of(spec, 5, seed=1)
    meter = (
        SeveralMeter(spec, [METERS[part.kind](part) for part in spec.parts]) if spec.parts else METERS[spec.kind](spec)
    )
    meter.add(reference.numpy(), other.numpy(), Batch(np.zeros((5, 0), np.float32), np.zeros(5, np.int64), 0))
    distance = likelihood_for(spec).distance(other, reference).mean()
    assert float(distance) == pytest.approx(meter.result().kl, rel=1e-6)


def test_a_model_has_the_likelihood_that_it_was_given() -> None:
    model = torch.nn.Linear(2, 2)
    assert likelihood_of(model) is CLASSES
    own: Likelihood = likelihood_for(SPECS["embedding"])
    model.likelihood = own  # type: ignore[assignment]
    assert likelihood_of(model) is own


@pytest.mark.parametrize(
    ("kind", "answers"), [("detection", 7), ("sequence", 7), ("features", 1), ("classification", 1)]
)
def test_answers_are_queries_or_steps(kind: TaskName, answers: int) -> None:
    assert answers_of(TaskSpec(kind=kind), torch.zeros(2, 7, 5)) == answers
