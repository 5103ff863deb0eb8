"""Losses and scores that cannot change are refused, whatever they come from."""

from __future__ import annotations

import numpy as np
import pytest

from lampq_onnx.artifacts.task import TaskName, TaskSpec
from lampq_onnx.data import ImageSource, Preprocessing
from lampq_onnx.data.npz import ArrayReader
from lampq_onnx.errors import LampqError
from lampq_onnx.evaluation.tasks.guard import changed, notices, require_moving_scores

SQUARE = Preprocessing(
    size=(4, 4), crop_pct=1, crop_mode="squash", interpolation="bilinear", mean=(0.5,), std=(0.5,), channels=1
)


def require(kind: TaskName, shape: tuple[int, ...], images: int = 12, scale: float = 1.0) -> None:
    reader = ArrayReader("images.npz", np.zeros((images, 4, 4), np.uint8))
    source = ImageSource.whole(reader, images, None, "images")

    def answer(inputs: np.ndarray) -> np.ndarray:
        random = np.random.default_rng(1)
        return (scale * random.normal(size=(len(inputs), *shape))).astype(np.float32)

    require_moving_scores(TaskSpec(kind=kind), source, SQUARE, answer, named="float.onnx")


@pytest.mark.parametrize(
    ("kind", "shape", "others"),
    [
        ("classification", (1,), "binary or --task multi-label or --task regression"),
        ("embedding", (1,), "binary"),
        ("segmentation", (1, 3, 3), "binary-segmentation or --task dense-regression"),
    ],
)
def test_one_number_is_no_class_and_no_direction(kind: TaskName, shape: tuple[int, ...], others: str) -> None:
    with pytest.raises(LampqError, match=f"float.onnx.*{kind}.*KL divergence stays 0") as error:
        require(kind, shape)
    assert f"--task {others}" in error.value.hint


def test_saturated_classes_do_not_change_either() -> None:
    with pytest.raises(LampqError, match="KL divergence stays 0"):
        require("classification", (2,), scale=1e6)


@pytest.mark.parametrize("images", [1, 2])
def test_the_nearest_of_two_images_is_always_the_other(images: int) -> None:
    with pytest.raises(LampqError, match="agreement stays 100 %") as error:
        require("embedding", (5,), images)
    assert "more images" in error.value.hint
    require("embedding", (5,), 3)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("classification", (2,)), ("binary", (1,)), ("multi-label", (1,)), ("regression", (1,)), ("regression", (3,)),
        ("segmentation", (2, 3, 3)), ("binary-segmentation", (1, 3, 3)), ("dense-regression", (1, 3, 3)),
        ("dense-regression", (3, 3)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_scores_that_move_are_taken(kind: TaskName, shape: tuple[int, ...], scale: float) -> None:
    require(kind, shape, scale=scale)


def test_changes_keep_the_sign_and_reach_zeros() -> None:
    values = np.array([[3.0, -0.1, 0.0]], np.float32)
    other = changed(values, 0.5)
    assert (np.sign(other[:, :2]) == np.sign(values[:, :2])).all()
    assert np.abs(other - values).max() <= 1.5
    assert (other != values).all()
    assert not notices(lambda a, b: np.zeros(len(a)), values)
    assert notices(lambda a, b: np.square(a - b).sum(1), values)


def test_one_of_several_outputs_may_be_scores_of_classes() -> None:
    parts = (TaskSpec(outputs=("logits",), shape=(5,)), TaskSpec(kind="features", outputs=("tokens",), shape=(4, 6)))
    spec = TaskSpec(kind="several", outputs=("logits", "tokens"), parts=parts)
    source = ImageSource.whole(ArrayReader("images.npz", np.zeros((12, 4, 4), np.uint8)), 12, None, "images")

    def answer(inputs: np.ndarray) -> np.ndarray:
        return np.random.default_rng(1).normal(size=(len(inputs), 5 + 4 * 6)).astype(np.float32)

    require_moving_scores(spec, source, SQUARE, answer, named="float.onnx")
