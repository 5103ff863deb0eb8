"""What detectors need besides other models: lengths of tensors, checks of shapes, and queries in any order."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch

from lampq_onnx.artifacts import ModelIdentity
from lampq_onnx.data import Preprocessing
from lampq_onnx.frontend.models import lengths
from lampq_onnx.frontend.models.export import export_model
from lampq_onnx.frontend.models.rewrites import rewrite
from lampq_onnx.frontend.models.task_model import NamedOutputs, detection_task
from lampq_onnx.frontend.shared.changes import relative_change
from lampq_onnx.frontend.shared.loaded import LoadedModel
from lampq_onnx.graph.model_file import save_model

WIDTH, QUERIES, SIDE = 16, 5, 32


class Answer(dict[str, torch.Tensor]):
    """Outputs with names, as transformers returns them."""

    def __getattr__(self, name: str) -> torch.Tensor:
        return self[name]


class Chooser(torch.nn.Module):
    """A two-stage detector with what RT-DETR does: it chooses queries by scores, and samples the values around them."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, WIDTH, 4, 4, bias=False)
        self.norm = torch.nn.BatchNorm2d(WIDTH)
        self.query, self.key, self.value, self.out = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.value_proj, self.offsets = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, 4)
        self.output_proj, self.scores = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, 3)
        self.first_score, self.box = torch.nn.Linear(WIDTH, 3), torch.nn.Linear(WIDTH, 4)

    def forward(self, images: torch.Tensor) -> Answer:
        tokens = self.norm(self.patches(images)).flatten(2).transpose(1, 2)
        weights = (self.query(tokens) @ self.key(tokens).mT).softmax(-1)
        tokens = tokens + self.out(weights @ self.value(tokens))
        count, side = len(tokens), SIDE // 4
        torch._check_tensor_all(torch.ones_like(tokens) == 1)
        best = self.first_score(tokens).amax(-1).topk(QUERIES).indices
        queries = tokens.gather(1, best[..., None].repeat(1, 1, WIDTH))
        places = (queries[..., :4] + 0.1 * self.offsets(queries)).reshape(count, QUERIES, 2, 2)
        values = self.value_proj(tokens).transpose(1, 2).reshape(count, WIDTH, side, side)
        sampled = torch.nn.functional.grid_sample(values, places, align_corners=False).sum(-1).transpose(1, 2)
        queries = queries + self.output_proj(sampled)
        return Answer(logits=self.scores(queries), pred_boxes=self.box(queries).sigmoid())


@pytest.fixture(scope="module")
def chooser() -> NamedOutputs:
    torch.manual_seed(0)
    model = Chooser()
    torch.nn.init.normal_(model.norm.running_mean, std=0.3)
    torch.nn.init.uniform_(model.norm.running_var, 0.5, 2.0)
    return NamedOutputs(model, ("logits", "pred_boxes")).eval().requires_grad_(False)


def test_a_detector_that_chooses_queries_is_exported_for_any_number_of_images(
    chooser: NamedOutputs, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pre = Preprocessing(
        channels=3, size=(SIDE, SIDE), mean=(0.0,) * 3, std=(1.0,) * 3, crop_pct=1.0, crop_mode="squash",
        interpolation="bilinear",
    )  # fmt: skip
    identity = ModelIdentity(name="chooser", weights_sha256="0" * 64, num_classes=3)
    loaded = LoadedModel(chooser, pre, identity, task=detection_task(background=False))
    exported = export_model(loaded)
    kinds = {layer.name.removeprefix("model."): (layer.type, layer.fixed) for layer in exported.layers}
    # The layers around the sampling are those of an attention; where it samples is not in the budget.
    assert kinds["value_proj"] == ("qkv", False)
    assert kinds["output_proj"] == ("proj", False)
    assert kinds["offsets"] == ("linear", True)
    path = tmp_path_factory.mktemp("chooser") / "model.onnx"
    save_model(exported.model, path)
    images = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    found = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"input": images.numpy()})
    assert relative_change(chooser, torch.from_numpy(np.concatenate(found, -1)), chooser(images)) < 1e-5


def test_queries_that_change_places_are_no_change(chooser: NamedOutputs) -> None:
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    before = chooser(images)
    assert relative_change(chooser, before.flip(1), before) == 0
    assert relative_change(torch.nn.Identity(), before.flip(1), before) > 1e-3
    moved = before.flip(1).clone()
    moved[..., -4:] += 0.1
    wanted = float((0.1 * torch.ones_like(before[..., -4:])).norm() / before.norm())
    assert relative_change(chooser, moved, before) == pytest.approx(wanted, rel=1e-5)
    assert rewrite(chooser, "chooser", images) == {"folded batch norms": 1}


def test_length_of_a_tensor_follows_the_exporter_only_inside_the_block(chooser: NamedOutputs) -> None:
    with lengths.symbolic_lengths(chooser):
        assert globals()["len"](torch.zeros(3, 2)) == 3
        assert globals()["len"]([1, 2]) == 2
    assert "len" not in globals()
