"""The cache of arrays: hits, damage, and folders that cannot be used."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from lampq_onnx.disk.cache import ArrayCache, cache_folder, cache_key
from lampq_onnx.disk.records import Record


class Options(Record):
    steps: int = 3
    weight: float = 0.5


class Inputs(Record):
    size: tuple[int, int] = (8, 8)


KEY = "a" * 64
ARRAYS = {
    "images": np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8),
    "turned": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "scalar": np.array(7, dtype=np.int64),
    "nothing": np.zeros((0, 2), dtype=np.float32),
}


def assert_same(found: dict[str, np.ndarray] | None) -> None:
    assert found is not None
    assert found.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape
        assert np.array_equal(found[name], value)


def test_what_is_put_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = ArrayCache(tmp_path / "made" / "when needed")
    assert cache.get(KEY) is None
    cache.put(KEY, ARRAYS)
    assert_same(cache.get(KEY))
    assert cache.get("b" * 64) is None
    assert [path.name for path in cache.folder.iterdir()] == [f"{KEY}.arrays"]
    assert not caplog.records


def test_an_entry_can_be_replaced(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path)
    cache.put(KEY, {"other": np.zeros(3)})
    cache.put(KEY, ARRAYS)
    assert_same(cache.get(KEY))


@pytest.mark.parametrize("damage", ["cut", "empty", "bit", "header", "longer", "foreign"])
def test_a_damaged_entry_is_noticed_and_replaced(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    cache = ArrayCache(tmp_path)
    cache.put(KEY, ARRAYS)
    path = tmp_path / f"{KEY}.arrays"
    data = bytearray(path.read_bytes())
    if damage == "bit":
        data[-1] ^= 1
    elif damage == "header":
        data[0] ^= 1
    elif damage == "foreign":
        cache.put("b" * 64, {"images": np.zeros(2)})
        data = bytearray((tmp_path / f"{'b' * 64}.arrays").read_bytes())
    else:
        data = {"cut": data[: len(data) // 2], "empty": bytearray(), "longer": data + b"x"}[damage]
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert cache.get(KEY) is None
    assert "damaged" in caplog.text
    assert path.name in caplog.text
    cache.put(KEY, ARRAYS)
    assert_same(cache.get(KEY))


def test_a_folder_that_cannot_be_written_is_said_and_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    cache = ArrayCache(tmp_path / "file" / "cache")  # below a file: not even root can make it
    with caplog.at_level(logging.WARNING):
        assert cache.get(KEY) is None
        cache.put(KEY, ARRAYS)
    assert "cannot be written" in caplog.text
    assert "LAMPQ_ONNX_CACHE" in caplog.text


def test_an_entry_that_is_a_folder_is_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / f"{KEY}.arrays").mkdir()
    cache = ArrayCache(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert cache.get(KEY) is None
        cache.put(KEY, ARRAYS)
    assert "cannot be read" in caplog.text
    assert "cannot be written" in caplog.text


def test_without_a_folder_nothing_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    cache = ArrayCache(None)
    with caplog.at_level(logging.WARNING):
        cache.put(KEY, ARRAYS)
    assert cache.get(KEY) is None
    assert "no cache folder" in caplog.text


def test_the_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAMPQ_ONNX_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "own"
    assert ArrayCache.of_user().folder == tmp_path / "own"
    monkeypatch.setenv("LAMPQ_ONNX_CACHE", "")
    assert cache_folder() == tmp_path / "xdg" / "lampq-onnx"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / "home" / ".cache" / "lampq-onnx"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / "home" / ".cache" / "lampq-onnx"


def test_no_home_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("LAMPQ_ONNX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", fail)
    assert cache_folder() is None


def test_keys_differ_with_everything_that_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    def key(kind: str = "synthetic", weights: str = "w", **more: str) -> str:
        return cache_key(kind, weights_sha256=weights, options=Options(), inputs=Inputs(), **more)

    first = key()
    assert first == key()
    assert len(first) == 64
    others = {
        key(kind="noise"),
        key(weights="v"),
        key(structure="s"),
        key(structure="t"),
        cache_key("synthetic", weights_sha256="w", options=Options(steps=4), inputs=Inputs()),
        cache_key("synthetic", weights_sha256="w", options=Options(), inputs=Inputs(size=(8, 9))),
    }
    monkeypatch.setattr("lampq_onnx.disk.cache.metadata.version", lambda _: "99")
    others.add(key())
    assert len(others | {first}) == 8


def test_the_folder_of_other_systems_and_that_of_earlier_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS and Windows have their own; one in ~/.cache stays in use until the other is there."""
    for name in ("LAMPQ_ONNX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    system, earlier = tmp_path / "Library/Caches/lampq-onnx", tmp_path / ".cache/lampq-onnx"
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name, appauthor: system)
    assert cache_folder() == system
    earlier.mkdir(parents=True)
    assert cache_folder() == earlier
    system.mkdir(parents=True)
    assert cache_folder() == system
