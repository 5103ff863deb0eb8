"""The table of tasks: files that are damaged are scored worse, and the reader's strips hold what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lampq_onnx.artifacts.task import TaskSpec
from lampq_onnx.data import BatchedImages
from lampq_onnx.evaluation.tasks.measured import measured
from lampq_onnx.frontend.models.digits import split_images
from lampq_onnx.frontend.models.export import export_model
from lampq_onnx.frontend.models.loading import load_module
from lampq_onnx.frontend.models.output_choice import asked_outputs
from lampq_onnx.frontend.models.task_model import with_likelihood, with_task
from lampq_onnx.graph.keys import TASK_KEY
from lampq_onnx.graph.model_file import save_model
from tests.frontend.tiny_models import loaded as as_loaded
from tests.frontend.tiny_models import pixels, tiny_vit
from tools import reader
from tools.bench.tasks import compared, damaged

ASKED = ("logits", "tokens=features")
PREPROCESSING = as_loaded(tiny_vit()).preprocessing
LABELS = torch.zeros(20, dtype=torch.int64)


class Answers(torch.nn.Module):
    """A small Vision Transformer with its class scores and the features of its tokens as outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = tiny_vit()

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        tokens = self.vit.forward_features(images)
        return {"logits": self.vit.forward_head(tokens), "tokens": tokens}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A float file for each task, of one graph."""
    folder, found = tmp_path_factory.mktemp("tasks"), {}
    asked = asked_outputs(ASKED)
    loaded = with_task(load_module(Answers(), "answers", PREPROCESSING, outputs=asked), "auto", outputs=asked)
    with torch.no_grad():
        several = measured(loaded.task, loaded.module(pixels(40)).numpy())
    model = export_model(with_likelihood(loaded, several)).model
    for spec in (several, several.parts[1], TaskSpec(kind="sequence", outputs=("tokens",), blank=0)):
        model.metadata_props[TASK_KEY] = spec.model_dump_json()
        found[spec.kind] = folder / f"{spec.kind}.onnx"
        save_model(model, found[spec.kind])
    return found


@pytest.mark.parametrize("name", ["features", "sequence", "several"])
def test_every_score_falls_when_the_file_is_damaged(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    scores = []
    for size in (0.0, 0.1, 0.8):
        broken = damaged(files[name], tmp_path / "damaged.onnx", size)
        parts = pixels(60).split(20)
        with BatchedImages([(part, LABELS) for part in parts] if name == "several" else parts, PREPROCESSING) as images:
            found = compared(files[name], broken, images)
        scores.append((found.quantized.top1, found.agreement, -found.kl, -found.relative_error))
    first, second, last = (np.array(row) for row in scores)
    assert tuple(first[1:3]) == (1, 0)
    assert (second[2:] < first[2:]).all()
    own = slice(1, None) if name == "several" else slice(None)  # the labels are no truth for this model
    assert (last[own] < first[own]).all()
    assert (last[2:] < second[2:]).all()


def test_a_strip_holds_the_digits_that_its_label_names() -> None:
    images, texts = reader.strips("test", 5, seed=3)
    again, _ = reader.strips("test", 5, seed=3)
    np.testing.assert_array_equal(images, again)
    digits, labels = split_images("test")
    known = {digit.tobytes(): int(label) for digit, label in zip(digits, labels, strict=True)}
    for image, text in zip(images, texts, strict=True):
        found = []
        start = 0
        while start <= reader.WIDTH - reader.SIDE:
            label = known.get(np.ascontiguousarray(image[:, start : start + reader.SIDE]).tobytes())
            found += [] if label is None else [label + 1]
            start += 1 if label is None else reader.SIDE
        assert found == [value for value in text if value >= 0]


def test_the_reader_gives_class_scores_for_each_step() -> None:
    model = reader.trained(steps=2)
    images, _ = reader.strips("test", 3, seed=3)
    assert model(reader.prepared(images)).shape == (3, 20, 11)
    assert TaskSpec(kind="sequence").blank is None
