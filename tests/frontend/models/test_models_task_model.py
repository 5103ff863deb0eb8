from __future__ import annotations

from dataclasses import dataclass

import pytest
import timm
import torch

from lampq_onnx.artifacts import ModelIdentity
from lampq_onnx.artifacts.task import TaskSpec
from lampq_onnx.data import Preprocessing
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.evaluation.tasks.several import parts_of
from lampq_onnx.frontend.likelihoods import CLASSES, likelihood_of
from lampq_onnx.frontend.likelihoods.embedding import EmbeddingLikelihood
from lampq_onnx.frontend.models.called_layers import differentiable
from lampq_onnx.frontend.models.export import export_model
from lampq_onnx.frontend.models.output_choice import Shapes, asked_outputs, require_known, shown_task
from lampq_onnx.frontend.models.task_model import NamedOutputs, detection_task, with_task
from lampq_onnx.frontend.shared.loaded import LoadedModel
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.shared.outputs import outputs_apart
from lampq_onnx.frontend.simulation.chain import _same_without

SMALL = Preprocessing(
    size=(8, 8), crop_pct=1, crop_mode="squash", interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3, channels=3
)


def loaded(module: torch.nn.Module, classes: int = 5, task: TaskSpec | None = None) -> LoadedModel:
    identity = ModelIdentity(name="model", weights_sha256="0", num_classes=classes)
    return LoadedModel(module.eval().requires_grad_(False), SMALL, identity, task=task or TaskSpec())


def vit(classes: int) -> torch.nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=classes
    )


def test_classifiers_stay_what_they_are() -> None:
    found = with_task(loaded(vit(5)), "auto")
    assert found.task == TaskSpec()
    assert likelihood_of(found.module) is CLASSES


def test_a_model_without_a_head_gives_embeddings() -> None:
    found = with_task(loaded(vit(0), classes=0), "auto")
    assert found.task.kind == "embedding"
    assert isinstance(likelihood_of(found.module), EmbeddingLikelihood)


def test_a_task_can_be_asked_for_where_the_shape_leaves_a_choice() -> None:
    assert with_task(loaded(vit(5)), "multi-label").task.kind == "multi-label"
    with pytest.raises(UsageError, match=r"\(1, 5\), are not those of detection") as error:
        with_task(loaded(vit(5)), "detection")
    assert "classification, multi-label, embedding" in (error.value.hint or "")


def test_maps_are_segmentation_and_other_shapes_are_features() -> None:
    assert with_task(loaded(torch.nn.Conv2d(3, 4, 1)), "auto").task.kind == "segmentation"
    tokens = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Flatten(2))
    found = with_task(loaded(tokens), "auto").task
    assert (found.kind, found.fallback) == ("features", True)
    assert "nothing shows another task" in found.reason
    asked = with_task(loaded(tokens), "sequence").task
    assert (asked.kind, asked.reason) == ("sequence", "")


class Outputs(torch.nn.Module):
    """Answers with class scores, tokens, and a tuple of two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 6, 2, 2)

    def forward(self, images: torch.Tensor) -> dict[str, object]:
        maps = self.first(images)
        return {"logits": maps.mean((2, 3)), "tokens": maps.flatten(2).mT, "maps": (maps, 2 * maps)}


def test_several_outputs_are_taken_apart_and_scored_each_by_its_own_task() -> None:
    names = ("logits", "tokens", "maps.1")
    module = NamedOutputs(Outputs(), names)
    asked = asked_outputs(["logits", "tokens=features", "maps.1"])
    found = with_task(loaded(module, task=TaskSpec(outputs=names)), "auto", outputs=asked)
    assert found.task.kind == "several"
    assert [part.kind for part in found.task.parts] == ["classification", "features", "segmentation"]
    assert [part.shape for part in found.task.parts] == [(6,), (16, 6), (6, 4, 4)]
    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    joined = found.module(images)
    assert joined.shape == (5, 6 + 96 + 96)
    own = Outputs()
    own.load_state_dict(module.model.state_dict())
    wanted = own(images)
    parts = parts_of(joined, [part.shape for part in found.task.parts])
    for part, value in zip(parts, (wanted["logits"], wanted["tokens"], wanted["maps"][1]), strict=True):  # type: ignore[index]
        torch.testing.assert_close(part, value)
    with outputs_apart(module):
        assert [tuple(value.shape) for value in module(images)] == [(5, 6), (5, 16, 6), (5, 6, 4, 4)]
    assert TaskSpec.model_validate_json(found.task.model_dump_json()) == found.task


def test_outputs_that_do_not_exist_or_are_misspelt_are_refused() -> None:
    with pytest.raises(UsageError, match="takes NAME or NAME=TASK, not 'tokens=feature'") as error:
        asked_outputs(["tokens=feature"])
    assert "features" in (error.value.hint or "")
    with pytest.raises(UsageError, match="names one output twice"):
        asked_outputs(["tokens", "tokens=features"])
    with pytest.raises(UsageError, match="the model has no output 'token'; it has: logits, tokens"):
        require_known(asked_outputs(["token"]), ["logits", "tokens"], "the model")


@pytest.mark.parametrize(
    ("shapes", "kind", "outputs"),
    [
        ({"last_hidden_state": (2, 5, 8), "pooler_output": (2, 8)}, "embedding", ("pooler_output",)),
        ({"last_hidden_state": (2, 5, 8)}, "features", ("last_hidden_state",)),
        ({"predicted_depth": (2, 8, 8), "last_hidden_state": (2, 5, 8)}, "dense-regression", ("predicted_depth",)),
        ({"class_queries_logits": (2, 5, 3), "masks_queries_logits": (2, 5, 4, 4), "last_hidden_state": (2, 5, 8)},
         "features", ("class_queries_logits", "masks_queries_logits")),
        ({"feature_maps.0": (2, 5, 3, 3), "feature_maps.1": (2, 5, 3, 3)}, "features", ("feature_maps.0",)),
    ],
)  # fmt: skip
def test_names_and_shapes_show_the_task(shapes: Shapes, kind: str, outputs: tuple[str, ...]) -> None:
    found = shown_task(shapes)
    assert found is not None
    assert (found.kind, found.outputs) == (kind, outputs)


@dataclass
class Answer:
    logits: torch.Tensor
    pred_boxes: torch.Tensor


class Detector(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.chooser = (torch.nn.Linear(8, n) for n in (3, 4, 1))

    def forward(self, images: torch.Tensor) -> Answer:
        rows = images[:, 0]
        best = self.chooser(rows).argmax(1, keepdim=True).expand(-1, -1, 8)
        return Answer(self.first(rows), self.second(rows + rows.gather(1, best)))


def test_named_outputs_are_joined_and_can_be_taken_apart() -> None:
    inner = Detector()
    found = with_task(loaded(NamedOutputs(inner, ("logits", "pred_boxes")), task=detection_task(True)), "auto").module
    images = torch.randn(2, 3, 8, 8)
    joined, answer = found(images), inner(images)
    assert torch.equal(joined, torch.cat([answer.logits, answer.pred_boxes], -1))
    with outputs_apart(found):
        assert [part.shape[-1] for part in found(images)] == [3, 4]
    assert torch.equal(found(images), joined)


def test_layers_that_no_gradient_reaches_stay_in_float() -> None:
    inner = Detector().requires_grad_(False)
    layers = tuple(ModelLayer(name, "fc1", module, fixed=False) for name, module in inner.named_modules() if name)  # type: ignore[arg-type]
    skipped: dict[str, str] = {}
    kept = differentiable(
        layers, skipped, NamedOutputs(inner, ("logits", "pred_boxes")), "detector", torch.randn(2, 3, 8, 8)
    )
    assert [layer.name for layer in kept] == ["first", "second"]
    assert "no gradient" in skipped["chooser"]


class FixedBatch(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, :5] + torch.ones(int(images.shape[0]), 1)


def test_a_model_that_fixes_the_number_of_images_is_refused() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 4, 4), FixedBatch())
    with pytest.raises(LampqError, match="cannot be exported"):
        export_model(loaded(module))


class Scaled(torch.nn.Module):
    def forward(self, x: torch.Tensor, *, factor: int = 1, quiet: bool = False) -> torch.Tensor:
        return factor * x


def test_keywords_of_a_block_must_not_matter() -> None:
    x = torch.randn(3)
    assert _same_without(Scaled(), (x,), Scaled()(x, quiet=True))
    assert not _same_without(Scaled(), (x,), Scaled()(x, factor=2))
    assert not _same_without(Scaled(), (), x)
