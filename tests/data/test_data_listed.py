"""Tables, shards and data sets of Python, written here and read back; labels as classes, names and numbers."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lampq_onnx.data import open_source
from lampq_onnx.data.python_datasets import is_dataset, open_dataset
from lampq_onnx.data.targets import label_numbers
from lampq_onnx.errors import LampqError

CLASSES = ("cat", "dog", "eel")
LABELS = [2, 0, 1, 1, 0, 2]
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), np.uint8)


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def check(source: Any, labels: list[int] | None = LABELS, order: list[int] | None = None) -> None:
    assert len(source) == 6
    for i in (5, 0, 3, 2, 1, 4):  # in any order
        assert np.array_equal(np.asarray(source.image(i)), PIXELS[order[i] if order else i])
    assert labels is None if source.labels is None else source.labels.tolist() == labels


def write_parquet(path: Path, labels: list[Any] | None = LABELS, names: tuple[str, ...] = (), **columns: Any) -> Path:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    values: dict[str, Any] = {"image": [{"bytes": png(p), "path": f"{i}.png"} for i, p in enumerate(PIXELS)]} | columns
    if labels is not None:
        values["label"] = labels
    table = pa.table(values)
    if names:
        known = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(known)})
    parquet.write_table(table, path, row_group_size=4)
    return path


def opened(path: Path, num_classes: int | None = 3, *, need_labels: bool = True, names: tuple[str, ...] = ()) -> Any:
    return open_source(path, num_classes=num_classes, need_labels=need_labels, class_names=names)


def test_parquet(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet")
    check(opened(path))
    check(opened(path, need_labels=False), None)
    assert opened(path).name(1) == f"{path}[1]"
    found = label_numbers(path)
    assert found is not None
    assert found.tolist() == LABELS


def test_parquet_with_names_and_bytes(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [CLASSES[i] for i in LABELS], image=[png(p) for p in PIXELS])
    check(opened(path, names=CLASSES))
    assert label_numbers(path) is None
    with pytest.raises(LampqError, match="names of the classes are not known"):
        opened(path)


def test_a_collection_in_another_order_is_translated_by_its_names(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", names=CLASSES)
    check(opened(path))
    model = ("eel", "cat", "bat", "dog")
    check(opened(path, 4, names=model), [model.index(CLASSES[label]) for label in LABELS])
    with pytest.raises(LampqError, match=r"have 3 classes \(cat, \.\.\.\), but the model has 10"):
        opened(path, 10)


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    write_parquet(tmp_path / "b.parquet")
    write_parquet(tmp_path / "a.parquet")
    found = opened(tmp_path)
    assert len(found) == 12
    assert np.array_equal(np.asarray(found.image(7)), PIXELS[1])
    write_parquet(tmp_path / "c.parquet", None)
    with pytest.raises(LampqError, match="other columns than"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("labels", "columns", "message"),
    [
        (None, {}, "have no labels, which are needed here"),
        ([0, 1, 2, 3, 0, 0], {}, r"\[3\]: the label 3 is not below the model's 3 classes"),
        (LABELS, {"image": [1] * 6}, "holds no image file but int"),
        (LABELS, {"image": [b"x"] * 6}, "is not an image of a known kind"),
    ],
)
def test_wrong_parquet(tmp_path: Path, labels: list[int] | None, columns: dict[str, Any], message: str) -> None:
    path = write_parquet(tmp_path / "a.parquet", labels, **columns)
    with pytest.raises(LampqError, match=message):
        opened(path).image(0)


def test_damaged_tables(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(LampqError, match="cannot read the table"):
        opened(tmp_path / "a.parquet")
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pa.table({"x": [1]}), tmp_path / "b.parquet")
    with pytest.raises(LampqError, match="no column of images: its columns are x"):
        opened(tmp_path / "b.parquet")


def test_a_saved_data_set(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    ipc = pytest.importorskip("pyarrow.ipc")
    table = pa.table({"image": [{"bytes": png(p), "path": None} for p in PIXELS], "label": LABELS})
    with ipc.new_stream(str(tmp_path / "data.arrow"), table.schema) as stream:
        stream.write_table(table)
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    check(opened(tmp_path))
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(LampqError, match="is not what `datasets` writes"):
        opened(tmp_path)


def write_shard(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def samples(ending: str = "cls", label: Any = lambda value: str(value).encode()) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for i, (pixels, value) in enumerate(zip(PIXELS, LABELS, strict=True)):
        found |= {f"train/{i:04}.png": png(pixels), f"train/{i:04}.{ending}": label(value)}
    return found


def test_shards(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", samples())
    check(opened(path))
    assert opened(path).name(1) == f"{path}/train/0001.png"
    check(opened(tmp_path))  # a folder of shards
    check(opened(write_shard(tmp_path / "b.tar", samples("json", lambda v: json.dumps({"label": v}).encode()))))
    named = write_shard(tmp_path / "c.tar", samples("cls", lambda v: CLASSES[v].encode()))
    check(opened(named, names=CLASSES))


def test_wrong_shards(tmp_path: Path) -> None:
    some = samples()
    del some["train/0003.cls"]
    with pytest.raises(LampqError, match=r"5 of 6 images in .* have labels"):
        opened(write_shard(tmp_path / "a.tar", some))
    with pytest.raises(LampqError, match="it has to be uncompressed"):
        opened(write_shard(tmp_path / "b.tar", samples(), "w:gz"))
    with pytest.raises(LampqError, match="there are no images in"):
        opened(write_shard(tmp_path / "c.tar", {"a.txt": b"x"}))


def test_a_table_by_its_own_name(tmp_path: Path) -> None:
    for i, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    lines = [f"{i}.png,{label}" for i, label in enumerate(LABELS)]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(["path,label", *lines]))
    check(opened(path))
    found = label_numbers(path)
    assert found is not None
    assert found.tolist() == LABELS
    targets = open_source(path, num_classes=None, need_labels=False, labels="numbers").targets
    assert targets is not None
    assert targets.tolist() == LABELS


class Rows:
    """A data set as `datasets` makes it: rows by number, columns by name."""

    def __init__(self, images: list[Any], labels: list[int], names: tuple[str, ...] = ()) -> None:
        self._columns: dict[str, list[Any]] = {"image": images, "label": labels}
        self.column_names = list(self._columns)
        self.features = {"label": type("ClassLabel", (), {"names": list(names)})()} if names else {}

    def __len__(self) -> int:
        return len(self._columns["image"])

    def __getitem__(self, key: int | str) -> Any:
        return self._columns[key] if isinstance(key, str) else {name: c[key] for name, c in self._columns.items()}


class Pairs:
    """A data set as torchvision makes it."""

    def __init__(self, images: list[Any], targets: bool = True) -> None:
        self._images = images
        if targets:
            self.targets = LABELS
        self.classes = list(CLASSES)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, position: int) -> Any:
        return self._images[position], LABELS[position]


PICTURES = [Image.fromarray(pixels) for pixels in PIXELS]


@pytest.mark.parametrize("dataset", [
    Rows(PICTURES, LABELS, CLASSES), Rows([{"bytes": png(p), "path": None} for p in PIXELS], LABELS),
    Pairs(PICTURES), Pairs(PICTURES, targets=False), Pairs(list(PIXELS)),
    list(zip(PICTURES, LABELS, strict=True)),
], ids=["rows", "bytes", "pairs", "plain pairs", "arrays", "list"])  # fmt: skip
def test_data_sets_of_python(dataset: Any) -> None:
    assert is_dataset(dataset)
    check(open_dataset(dataset).with_classes(3, need_labels=True, class_names=()))
    found = open_dataset(dataset).with_numbers().targets
    assert found is not None
    assert found.tolist() == LABELS


def test_names_of_a_data_set() -> None:
    model = ("eel", "cat", "bat", "dog")
    wanted = [model.index(CLASSES[label]) for label in LABELS]
    for dataset in (Rows(PICTURES, LABELS, CLASSES), Pairs(PICTURES)):
        check(open_dataset(dataset).with_classes(4, need_labels=True, class_names=model), wanted)


@pytest.mark.parametrize("value", [
    "a/folder", [], [(np.zeros((2, 3, 8, 8), np.float32), np.zeros(2))], np.zeros((2, 3, 8, 8), np.float32), iter(()),
    [np.zeros((4, 3, 8, 8), np.float32)],
])  # fmt: skip
def test_batches_are_no_data_sets(value: Any) -> None:
    assert not is_dataset(value)


def test_torchvision_itself() -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    fake = datasets.FakeData(size=4, image_size=(3, 8, 8), num_classes=3)
    assert is_dataset(fake)
    source = open_dataset(fake).with_classes(3, need_labels=True, class_names=())
    assert source.labels is not None
    assert source.labels.tolist() == [int(fake[i][1]) for i in range(4)]
    assert np.asarray(source.image(2)).shape == (8, 8, 3)


def test_numbers_that_are_none() -> None:
    dataset = Rows(PICTURES, ["1.5", "2", "x", "1", "1", "1"])  # type: ignore[list-item]
    with pytest.raises(LampqError, match=r"Rows\[2\]: the label 'x' is not 1 finite number"):
        open_dataset(dataset).with_numbers()
    assert open_dataset(dataset).numbers() is None
