from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lampq_onnx.data import ImageSource, open_source
from lampq_onnx.errors import LampqError

WriteImage = Callable[..., Path]


def open_any(path: Path, num_classes: int | None = None, need_labels: bool = False) -> ImageSource:
    return open_source(path, num_classes=num_classes, need_labels=need_labels)


def names(source: ImageSource) -> list[str]:
    return [source.name(i) for i in range(len(source))]


@pytest.fixture
def tree(tmp_path: Path, write_image: WriteImage) -> Path:
    for seed, name in enumerate(("b/1.png", "b/deep/2.PNG", "a/3.jpg", "c/.hidden.png", ".git/x.png")):
        write_image(tmp_path / "tree" / name, seed=seed)
    (tmp_path / "tree" / "a" / "notes.txt").write_text("no image")
    return tmp_path / "tree"


def test_class_folders(tree: Path) -> None:
    source = open_any(tree, 3, True)
    assert names(source) == ["a/3.jpg", "b/1.png", "b/deep/2.PNG"]
    assert source.labels is not None
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == [0, 1, 1]
    assert source.image(1).size == (6, 8)
    assert "3 images in 3 class folders" in source.description
    assert str(tree) in source.description


def test_class_folders_of_another_number(tree: Path) -> None:
    with pytest.raises(LampqError, match=r"3 class folders, but the model has 1000 classes") as caught:
        open_any(tree, 1000, True)
    assert "labels.csv" in caught.value.hint
    assert open_any(tree, 1000, False).labels is None
    assert open_any(tree, None, True).labels is not None


def test_folder_links_are_not_followed(tree: Path) -> None:
    (tree / "loop").symlink_to(tree, target_is_directory=True)
    (tree / "a" / "up").symlink_to(tree, target_is_directory=True)
    (tree / "a" / "self.png").symlink_to("self.png")
    (tree / "a" / "file.png").symlink_to(tree / "b" / "1.png")
    source = open_any(tree, 3, True)
    assert names(source) == ["a/3.jpg", "a/file.png", "b/1.png", "b/deep/2.PNG"]


def test_flat_folder(tmp_path: Path, write_image: WriteImage) -> None:
    write_image(tmp_path / "2.jpeg")
    write_image(tmp_path / "1.webp")
    source = open_any(tmp_path)
    assert names(source) == ["1.webp", "2.jpeg"]
    assert source.labels is None
    with pytest.raises(LampqError, match="have no labels"):
        open_any(tmp_path, 10, True)


def test_mixed_folder(tree: Path, write_image: WriteImage) -> None:
    write_image(tree / "loose.png")
    with pytest.raises(LampqError, match=r"both directly \(loose.png\) and in folders"):
        open_any(tree)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(LampqError, match="there is no"):
        open_any(tmp_path / "missing")
    with pytest.raises(LampqError, match="there is no"):
        open_any(tmp_path / ("x" * 5000))
    with pytest.raises(LampqError, match="is empty"):
        open_any(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "readme.txt").write_text("")
    with pytest.raises(LampqError, match="no images in the folder"):
        open_any(tmp_path)
    with pytest.raises(LampqError, match="neither a folder nor a file of images that can be read"):
        open_any(tmp_path / "a" / "readme.txt")


def test_broken_image_is_named(tree: Path) -> None:
    (tree / "a" / "0.png").write_bytes(b"")
    with pytest.raises(LampqError, match=r"a/0\.png: the file is empty"):
        open_any(tree).image(0)


def test_subset(tree: Path) -> None:
    source = open_any(tree)
    part = source.subset([2, 0]).subset(np.array([1, 0]))
    assert names(part) == ["a/3.jpg", "b/deep/2.PNG"]
    assert part.labels is not None
    assert part.labels.tolist() == [0, 1]
    assert np.array_equal(np.array(part.image(1)), np.array(source.image(2)))
    assert len(source.subset([])) == 0
    for outside in ([3], [-1]):
        with pytest.raises(IndexError):
            source.subset(outside)


# --- labels.csv ---


@pytest.fixture
def table(tmp_path: Path, write_image: WriteImage) -> Path:
    write_image(tmp_path / "set" / "x" / "1.png")
    write_image(tmp_path / "set" / "2, b.png", seed=1)
    return tmp_path / "set"


def write_table(folder: Path, text: str) -> None:
    (folder / "labels.csv").write_text(text, encoding="utf-8")


def test_label_table(table: Path) -> None:
    write_table(table, '\ufefflabel, path,note\r\n7,x/1.png,\r\n\r\n3,"2, b.png",n\r\n7,x/1.png,\r\n')
    source = open_any(table, 10, True)
    assert names(source) == ["x/1.png", "2, b.png", "x/1.png"]
    assert source.labels is not None
    assert source.labels.tolist() == [7, 3, 7]
    assert source.labels.dtype == np.int64
    assert source.image(1).size == (6, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not start with the header"),
        ("x/1.png,3\n", "does not start with the header"),
        ("path,label\n", "lists no images"),
        ("path,label\nx/1.png,3\nx/1.png,cat\n", "line 3: the label 'cat' is not an integer"),
        ("path,label\nx/1.png,1.0\n", "line 2: the label '1.0' is not an integer"),
        ("path,label\nx/1.png,\n", "line 2: the label '' is not an integer"),
        ("path,label\nx/1.png,-1\n", "line 2: the label -1 is negative"),
        ("path,label\nx/1.png,10\n", "line 2: the label 10 is not below the model's 10 classes"),
        ("path,label\nx/1.png," + "9" * 5000 + "\n", "is not an integer"),
        ("path,label\nx/1.png\n", "line 2: 1 columns"),
        ("path,label\n2, b.png,1\n", "line 2: 3 columns"),
        ("path,label\n,1\n", "line 2: '' is not a path"),
        ("path,label\nx/0.png,1\n", "line 2: there is no file"),
        ("path,label\nx,1\n", "line 2: there is no file"),
        ("path,label\n../set/x/1.png,1\n", r"line 2: the path \.\./set/x/1\.png leads outside"),
        ("path,label\nx/../x/1.png,1\n", "leads outside"),
        ("path,label\n/etc/passwd,1\n", "leads outside"),
        ("path,label\nC:\\x.png,1\n", "leads outside"),
        ('path,label\n"x/1.png,1\n', "not valid UTF-8 CSV"),
    ],
)
def test_label_table_refusals(table: Path, text: str, message: str) -> None:
    write_table(table, text)
    with pytest.raises(LampqError, match=message) as caught:
        open_any(table, 10, True)
    assert "labels.csv" in caught.value.message


def test_label_table_encoding_and_links(table: Path, tmp_path: Path, write_image: WriteImage) -> None:
    outside = write_image(tmp_path / "outside.png")
    (table / "link.png").symlink_to(outside)
    (table / "inside.png").symlink_to(table / "x" / "1.png")
    (table / "loop.png").symlink_to("loop.png")
    write_table(table, "path,label\ninside.png,1\n")
    assert len(open_any(table)) == 1
    write_table(table, "path,label\nlink.png,1\n")
    with pytest.raises(LampqError, match=r"link\.png leads outside"):
        open_any(table)
    write_table(table, "path,label\nloop.png,1\n")
    with pytest.raises(LampqError, match="there is no file"):
        open_any(table)
    (table / "labels.csv").write_bytes(b"path,label\n\xff\xfe,1\n")
    with pytest.raises(LampqError, match="not valid UTF-8 CSV"):
        open_any(table)
    (table / "labels.csv").unlink()
    (table / "labels.csv").mkdir()
    with pytest.raises(LampqError, match="cannot read"):
        open_any(table)


def test_labels_that_are_not_needed_are_not_read(table: Path) -> None:
    write_table(table, 'path,label\nx/1.png,a cat\n"2, b.png",-5\n')
    source = open_any(table, 10, False)
    assert source.labels is None
    assert names(source) == ["x/1.png", "2, b.png"]
    write_table(table, "path\nx/1.png\n")
    assert names(open_any(table, 10, False)) == ["x/1.png"]
    with pytest.raises(LampqError, match="does not start with the header path,label"):
        open_any(table, 10, True)


def named(table: Path, own: tuple[str, ...] = (), classes: int | None = 3) -> list[int]:
    labels = open_source(table, num_classes=classes, need_labels=True, class_names=own).labels
    assert labels is not None
    return labels.tolist()


NAMED = 'path,label\nx/1.png,dog\n"2, b.png",cat\nx/1.png, 2 \n'


def test_labels_that_are_names(table: Path) -> None:
    write_table(table, NAMED)
    with pytest.raises(LampqError, match=r"line 2: the label 'dog' is not an integer.*names .* not known") as caught:
        named(table)
    assert "classes.txt" in caught.value.hint
    assert named(table, ("cat", "owl", "dog")) == [2, 0, 2]
    (table / "classes.txt").write_text("\ufeffdog\r\ncat\r\nowl\r\n\r\n", encoding="utf-8")
    assert named(table) == [0, 1, 2]
    assert named(table, ("n1", "n2", "n3")) == [0, 1, 2]
    assert named(table, classes=None) == [0, 1, 2]


@pytest.mark.parametrize(
    ("classes", "own", "text", "message"),
    [
        ("dog\ncat\n", (), NAMED, r"classes\.txt names 2 classes, but the model has 3"),
        ("dog\ncat\nowl\n", ("cat", "dog", "owl"), NAMED, "calls class 0 'dog', but the model calls it 'cat'"),
        ("dog\ncat\ndog\n", (), NAMED, "has two classes named 'dog'"),
        ("dog\ncat\nowl\n", (), "path,label\nx/1.png,dgo\n", r"line 2: the label 'dgo' is no class of .*classes\.txt"),
        ("dog\n2\n1\n", (), "path,label\nx/1.png,dog\nx/1.png,2\n", "line 3: the label 2 is the name of class 1"),
        (None, ("dog", "cat", "dog"), NAMED, "the model has two classes named 'dog'"),
        (None, ("dog", "cat", "owl"), "path,label\nx/1.png,dog\nx/1.png,3\n", "label 3 is not below the model's 3"),
    ],
)
def test_names_that_are_no_classes(
    table: Path, classes: str | None, own: tuple[str, ...], text: str, message: str
) -> None:
    write_table(table, text)
    if classes is not None:
        (table / "classes.txt").write_text(classes, encoding="utf-8")
    with pytest.raises(LampqError, match=message) as caught:
        named(table, own)
    assert caught.value.hint


def test_class_indices_need_no_names(table: Path) -> None:
    write_table(table, "path,label\nx/1.png,1\n")
    (table / "classes.txt").write_text("one line of another form\n", encoding="utf-8")
    assert named(table) == [1]


def test_a_table_wins_over_class_folders(tree: Path) -> None:
    write_table(tree, "path,label\nb/1.png,9\n")
    assert names(open_any(tree, 10, True)) == ["b/1.png"]


def test_images_are_opened_lazily(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not an image")
    source = open_any(tmp_path)
    with pytest.raises(LampqError, match="not an image"):
        source.image(0)
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    assert source.image(0).mode == "L"
