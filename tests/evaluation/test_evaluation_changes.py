"""Images that two files answer differently."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from lampq_onnx.data import ImageSource, Preprocessing
from lampq_onnx.data.npz import ArrayReader
from lampq_onnx.data.thumbnails import SIDE
from lampq_onnx.evaluation.changes import SHOWN, ChangeMeter
from lampq_onnx.evaluation.output_errors import changed_answers


def logits(answers: list[int], sure: list[float]) -> np.ndarray:
    """Three classes; the answer's softmax probability is ``sure``, the others share the rest."""
    rest = (1 - np.array(sure)) / 2
    found = np.log(np.repeat(rest[:, None], 3, axis=1))
    found[np.arange(len(answers)), answers] = np.log(sure)
    return found.astype(np.float32)


def test_changes_are_counted_and_ranked() -> None:
    labels = np.array([0, 0, 1, 2, 2, 1])
    before = logits([0, 0, 0, 1, 2, 1], [0.9, 0.8, 0.7, 0.6, 0.95, 0.5])
    after = logits([1, 0, 1, 0, 0, 1], [0.6, 0.8, 0.9, 0.5, 0.7, 0.5])
    meter = ChangeMeter()
    meter.add(before[:4], after[:4], labels[:4], 0)
    meter.add(before[4:], after[4:], labels[4:], 4)
    found = meter.result("image {}".format, str)
    assert (found.lost, found.won, found.other) == (2, 1, 1)
    # lost ones first, and of these the one that both files are surer of
    assert [(i.image, i.float_answer, i.quantized_answer) for i in found.images] == [
        ("image 4", 2, 0), ("image 0", 0, 1), ("image 3", 1, 0), ("image 2", 0, 1),
    ]  # fmt: skip
    assert [i.thumbnail for i in found.images] == ["4", "0", "3", "2"]
    np.testing.assert_allclose(
        [(i.float_probability, i.quantized_probability) for i in found.images],
        [(0.95, 0.7), (0.9, 0.6), (0.6, 0.5), (0.7, 0.9)],
        rtol=1e-5,
    )
    assert [(c.label, c.samples, c.float_right, c.quantized_right) for c in found.classes] == [
        (0, 2, 2, 1), (1, 2, 1, 2), (2, 2, 1, 0),
    ]  # fmt: skip


def test_only_so_many_are_listed() -> None:
    n = SHOWN + 7
    meter = ChangeMeter()
    meter.add(logits([0] * n, [0.9] * n), logits([1] * n, [0.8] * n), np.zeros(n, np.int64), 0)
    found = meter.result(str, lambda _: None)
    assert found.lost == n
    assert len(found.images) == SHOWN


def test_names_and_pictures_are_those_of_the_images() -> None:
    pixels = np.zeros((3, 16, 16), np.uint8)
    pixels[1, :, 8:] = 255
    source = ImageSource.whole(ArrayReader("some", pixels), 3, np.zeros(3, np.int64), "some")
    preprocessing = Preprocessing(
        size=(16, 16), crop_pct=1, crop_mode="center", interpolation="bicubic", mean=(0.5,), std=(0.5,), channels=1
    )
    meter = ChangeMeter()
    meter.add(logits([0, 0, 0], [0.9] * 3), logits([0, 1, 0], [0.9] * 3), np.zeros(3, np.int64), 0)
    (image,) = changed_answers(meter, source, preprocessing).images
    assert image.image == source.name(1)
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(image.thumbnail))), float)
    assert drawn.shape == (SIDE, SIDE)
    assert drawn[:, : SIDE // 2 - 8].max() < 30
    assert drawn[:, SIDE // 2 + 8 :].min() > 225
