"""Labels that are real numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lampq_onnx.data import open_source
from lampq_onnx.data.targets import label_numbers
from lampq_onnx.errors import LampqError


def table(folder: Path, *labels: str) -> Path:
    lines = ["path,label"]
    for i, label in enumerate(labels):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{label}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def arrays(path: Path, labels: object) -> Path:
    np.savez(path, images=np.zeros((3, 4, 4, 3), np.uint8), labels=np.asarray(labels))
    return path


def numbers(path: Path) -> np.ndarray | None:
    found = open_source(path, num_classes=None, need_labels=False, labels="numbers")
    assert found.labels is None
    return found.targets


def test_tables_hold_one_number_or_several_for_each_image(tmp_path: Path) -> None:
    found = numbers(table(tmp_path, "1.5", "-2", "3e-1"))
    assert found is not None
    assert found.tolist() == [1.5, -2.0, 0.3]
    several = table(tmp_path, "1 2", "0.5  4", "-1 0")
    assert numbers(several).tolist() == label_numbers(several).tolist() == [[1, 2], [0.5, 4], [-1, 0]]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("labels", "says"),
    [(("1", "tall"), "line 3.*'tall'"), (("1", "nan"), "'nan'"), (("1 2", "1"), "line 3.*1 numbers")],
)
def test_the_line_of_a_wrong_label_is_named(tmp_path: Path, labels: tuple[str, ...], says: str) -> None:
    with pytest.raises(LampqError, match=says):
        numbers(table(tmp_path, *labels))
    assert label_numbers(tmp_path) is None


def test_arrays_hold_numbers_rows_or_maps(tmp_path: Path) -> None:
    maps = np.random.default_rng(0).normal(size=(3, 2, 5))
    maps[0, 0, 0] = np.nan
    for labels in ([0.5, 1, 2], [[1.0, 2], [3, 4], [5, 6]], maps, np.arange(3)):
        found = numbers(arrays(tmp_path / "a.npz", labels))
        np.testing.assert_array_equal(found, np.asarray(labels, np.float64))


@pytest.mark.parametrize("labels", [["a", "b", "c"], [1.0, np.nan, 2.0], [1.0, 2.0]])
def test_arrays_of_another_form_are_refused(tmp_path: Path, labels: list[object]) -> None:
    with pytest.raises(LampqError, match="labels"):
        numbers(arrays(tmp_path / "a.npz", labels))


def test_labels_that_are_not_used_are_not_read(tmp_path: Path) -> None:
    for path in (table(tmp_path, "tall", "1"), arrays(tmp_path / "a.npz", ["a", "b", "c"])):
        found = open_source(path, num_classes=None, need_labels=False, labels="none")
        assert found.labels is None
        assert found.targets is None


def test_a_subset_keeps_its_numbers(tmp_path: Path) -> None:
    found = open_source(table(tmp_path, "1", "2", "3"), num_classes=None, need_labels=False, labels="numbers")
    assert found.subset([2, 0]).targets.tolist() == [3, 1]  # type: ignore[union-attr]
