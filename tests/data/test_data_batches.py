from __future__ import annotations

import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lampq_onnx.data import CroppedImages, ImageSource, Preprocessing, iter_batches, open_source
from lampq_onnx.errors import LampqError, UsageError

SMALL = Preprocessing(
    size=(8, 10),
    crop_pct=0.9,
    crop_mode="center",
    interpolation="bilinear",
    mean=(0.5,) * 3,
    std=(0.2,) * 3,
    channels=3,
)


@pytest.fixture
def source(tmp_path: Path) -> ImageSource:
    images = np.random.default_rng(0).integers(0, 256, (11, 13, 17, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(11))
    return open_source(tmp_path / "a.npz", num_classes=11, need_labels=True)


def expected(source: ImageSource) -> np.ndarray:
    return SMALL.normalize(np.stack([SMALL.crop(source.image(i)) for i in range(len(source))]))


@pytest.mark.parametrize("batch_size", [1, 4, 11, 100])
def test_cached_and_streamed_batches_agree(source: ImageSource, tmp_path: Path, batch_size: int) -> None:
    wanted = expected(source)
    with CroppedImages(source, SMALL, folder=tmp_path) as cropped:
        assert len(cropped) == 11
        for _ in range(2):
            for batches in (cropped.batches(batch_size), iter_batches(source, SMALL, batch_size)):
                seen = 0
                for batch in batches:
                    stop = batch.start + len(batch.images)
                    assert batch.start == seen
                    assert batch.images.dtype == np.float32
                    np.testing.assert_array_equal(batch.images, wanted[batch.start : stop])
                    assert batch.labels is not None
                    assert batch.labels.tolist() == list(range(batch.start, stop))
                    seen = stop
                assert seen == 11


def test_batches_outlive_the_cache(source: ImageSource) -> None:
    with CroppedImages(source, SMALL) as cropped:
        batch = next(iter(cropped.batches(3)))
    np.testing.assert_array_equal(batch.images, expected(source)[:3])
    assert type(batch.images) is np.ndarray


def test_slices(source: ImageSource) -> None:
    wanted = expected(source)
    with CroppedImages(source, SMALL) as cropped:
        view = cropped.slice(3, 9)
        assert len(view) == 6
        inner = view.slice(2, 100)
        assert inner.labels is not None
        assert inner.labels.tolist() == [5, 6, 7, 8]
        batches = list(inner.batches(3))
        assert [batch.start for batch in batches] == [0, 3]
        np.testing.assert_array_equal(np.concatenate([batch.images for batch in batches]), wanted[5:9])
        assert list(cropped.slice(5, 5).batches(2)) == []
        assert len(cropped.slice(7, 2)) == 0


def test_without_labels(source: ImageSource) -> None:
    bare = ImageSource(source.reader, source.positions, None, "bare")
    with CroppedImages(bare, SMALL) as cropped:
        assert cropped.labels is None
        assert cropped.slice(0, 2).labels is None
        assert next(iter(cropped.batches(2))).labels is None
    assert next(iter(iter_batches(bare, SMALL, 2))).labels is None


def test_progress(source: ImageSource) -> None:
    seen: list[int] = []
    with CroppedImages(source, SMALL, progress=seen.append):
        assert seen == list(range(1, 12))
    seen.clear()
    list(iter_batches(source, SMALL, 4, progress=seen.append))
    assert seen == [4, 8, 11]


def test_temporary_folder_is_removed(source: ImageSource, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    cropped = CroppedImages(source, SMALL, folder=place)
    with cropped:
        assert len(list(place.iterdir())) == 1
    assert list(place.iterdir()) == []
    with pytest.raises(RuntimeError, match="outside its with block"):
        cropped.batches(1)


def test_failure_on_the_way_cleans_up_and_names_the_image(tmp_path: Path) -> None:
    images, place = tmp_path / "images", tmp_path / "place"
    images.mkdir()
    place.mkdir()
    Image.new("RGB", (9, 9)).save(images / "a.png")
    (images / "b.png").write_bytes(b"")
    bad = open_source(images, num_classes=None, need_labels=False)
    with pytest.raises(LampqError, match=r"b\.png"), CroppedImages(bad, SMALL, folder=place):
        pass
    assert list(place.iterdir()) == []
    with pytest.raises(LampqError, match=r"b\.png"):
        list(iter_batches(bad, SMALL, 8))
    Image.new("RGB", (2_000_000, 1)).save(images / "b.png")
    huge = SMALL.model_copy(update={"size": (64, 64)})
    with pytest.raises(LampqError, match=r"cannot use the image b\.png: .* would be resized"):
        list(iter_batches(bad, huge, 8))


def test_refusals(source: ImageSource, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch size"):
        iter_batches(source, SMALL, 0)
    with CroppedImages(source, SMALL) as cropped, pytest.raises(UsageError, match="batch size"):
        cropped.batches(-1)
    with pytest.raises(LampqError, match="cannot store 11 cropped images") as caught:
        CroppedImages(source, SMALL, folder=tmp_path / "gone").__enter__()
    assert "TMPDIR" in caught.value.hint


def test_full_disk_is_reported(source: ImageSource) -> None:
    # A file size limit stands in for the full disk: writing past it is an OSError as well.
    script = textwrap.dedent("""
        import resource, signal, sys
        from pathlib import Path
        from lampq_onnx.data import CroppedImages, Preprocessing, open_source
        from lampq_onnx.errors import LampqError
        images, place = map(Path, sys.argv[1:3])
        source = open_source(images, num_classes=None, need_labels=False)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            CroppedImages(source, Preprocessing.model_validate_json(sys.argv[3]), folder=place).__enter__()
        except LampqError as error:
            print(error.message, len(list(place.iterdir())))
    """)
    place = Path(source.description.split(" in ")[1]).parent / "place"
    place.mkdir()
    images = place.parent / "a.npz"
    result = subprocess.run(
        [sys.executable, "-c", script, images, place, SMALL.model_dump_json()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cannot store 11 cropped images" in result.stdout
    assert result.stdout.strip().endswith(" 0")


def test_heap_does_not_grow_with_the_images(tmp_path: Path) -> None:
    count, large = 300, SMALL.model_copy(update={"size": (160, 160)})  # 300 crops are 23 MB
    Image.new("RGB", (170, 170), "gray").save(tmp_path / "a.png")
    source = open_source(tmp_path, num_classes=None, need_labels=False).subset([0] * count)
    tracemalloc.start()
    with CroppedImages(source, large, folder=tmp_path) as cropped:
        for _ in cropped.batches(4):
            pass
    for _ in iter_batches(source, large, 4):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads resident memory from /proc")
def test_resident_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    # In a fresh process: resident memory includes mapped pages, which tracemalloc does not see.
    Image.new("RGB", (170, 170), "gray").save(tmp_path / "a.png")
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from lampq_onnx.data import CroppedImages, Preprocessing, open_source
        folder = Path(sys.argv[1])
        source = open_source(folder, num_classes=None, need_labels=False)
        def resident():
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
        def peak(count):
            most = 0
            with CroppedImages(source.subset([0] * count), preprocessing, folder=folder) as cropped:
                most = resident()
                for _ in cropped.batches(4):
                    most = max(most, resident())
            return most
        preprocessing = Preprocessing.model_validate_json(sys.argv[2])
        peak(20)
        print(peak(40), peak(800))
    """)
    preprocessing = SMALL.model_copy(update={"size": (160, 160)})  # 800 crops are 61 MB
    result = subprocess.run(
        [sys.executable, "-c", script, tmp_path, preprocessing.model_dump_json()],
        capture_output=True,
        text=True,
        check=True,
    )
    few, many = map(int, result.stdout.split())
    assert many - few < 10_000  # kB


def test_package_imports_no_framework() -> None:
    script = "import sys, lampq_onnx.data; print([m for m in ('torch', 'timm', 'onnx') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
