from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lampq_onnx.data import ImageSource, choose
from lampq_onnx.errors import UsageError


class Blank:
    def image(self, position: int) -> Image.Image:
        return Image.new("L", (1, 1), position)

    def name(self, position: int) -> str:
        return str(position)


def make(labels: list[int] | None, count: int = 0) -> ImageSource:
    array = None if labels is None else np.array(labels, dtype=np.int64)
    return ImageSource.whole(Blank(), count if labels is None else len(labels), array, "test")


def test_without_labels() -> None:
    source = make(None, 100)
    chosen = choose(source, 30, 7)
    assert len(chosen) == 30
    assert len(set(chosen.positions.tolist())) == 30
    assert chosen.positions.tolist() == choose(source, 30, 7).positions.tolist()
    assert chosen.positions.tolist() != choose(source, 30, 8).positions.tolist()


def test_spread_over_classes() -> None:
    source = make([0] * 50 + [5] * 3 + [7] * 50 + [9] * 50)
    chosen = choose(source, 23, 0)
    assert chosen.labels is not None
    counts = {label: int((chosen.labels == label).sum()) for label in (0, 5, 7, 9)}
    assert counts[5] == 3
    rest = [counts[0], counts[7], counts[9]]
    assert sum(rest) == 20
    assert max(rest) - min(rest) <= 1
    assert len(set(chosen.positions.tolist())) == 23
    assert source.labels is not None
    np.testing.assert_array_equal(chosen.labels, source.labels[chosen.positions])


def test_fewer_images_than_classes_depends_on_the_seed() -> None:
    source = make(list(range(100)) * 2)
    picks = [choose(source, 10, seed).labels for seed in range(2)]
    assert all(labels is not None and len(set(labels.tolist())) == 10 for labels in picks)
    assert not np.array_equal(*picks)


@pytest.mark.parametrize("labels", [None, [0, 1, 1, 1, 2, 0, 2, 2] * 5])
def test_smaller_count_is_a_prefix(labels: list[int] | None) -> None:
    source = make(labels, 40)
    assert choose(source, 9, 3).positions.tolist() == choose(source, 25, 3).positions.tolist()[:9]


@pytest.mark.parametrize("labels", [None, [2, 2, 0]])
def test_more_than_available_uses_all(labels: list[int] | None) -> None:
    chosen = choose(make(labels, 3), 10, 0)
    assert sorted(chosen.positions.tolist()) == [0, 1, 2]


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (-3, 0), (1, -1)])
def test_refusals(count: int, seed: int) -> None:
    with pytest.raises(UsageError, match="must be at least"):
        choose(make(None, 3), count, seed)
