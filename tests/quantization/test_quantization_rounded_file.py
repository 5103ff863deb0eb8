"""Rounded weights as a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from lampq_onnx.errors import LampqError
from lampq_onnx.quantization import fit_weight_grid
from lampq_onnx.quantization.weights_file import load_weights, save_weights


def some_weight() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)


def test_rounded_weights_as_a_file(tmp_path: Path) -> None:
    weight = some_weight()
    grid = fit_weight_grid(weight, 3)
    kept = {"a.b": grid.quantize(-weight), "c": grid.quantize(weight)}
    save_weights(kept, tmp_path / "w.safetensors")
    found = load_weights(tmp_path / "w.safetensors")
    assert set(found) == set(kept)
    for name, value in kept.items():
        assert np.array_equal(found[name].dequantize(), value.dequantize())
        assert (found[name].bits, found[name].grid) == (value.bits, value.grid)


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    path, good = tmp_path / "w.safetensors", fit_weight_grid(some_weight(), 3).quantize(some_weight())
    found = set()
    for _ in range(20):  # safetensors orders two entries of metadata by chance
        save_weights({"ä": good, "b": good}, path)
        found.add(path.read_bytes())
    assert len(found) == 1
    assert set(load_weights(path)) == {"ä", "b"}
    whole = next(iter(found))
    assert (8 + int.from_bytes(whole[:8], "little")) % 8 == 0


def test_bad_weights_files(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(LampqError, match="no such weights file"):
        load_weights(path)
    weight = some_weight()
    good = fit_weight_grid(weight, 3).quantize(weight)
    save_weights({"a": good}, path)
    whole = path.read_bytes()
    for keep in (0, 7, 100, len(whole) - 3):
        path.write_bytes(whole[:keep])
        with pytest.raises(LampqError, match=r"w\.safetensors is damaged"):
            load_weights(path)
    safetensors.numpy.save_file({"x": np.zeros(3)}, path)
    with pytest.raises(LampqError, match="not a weights file of lampq-onnx"):
        load_weights(path)
    save_weights({"a": replace(good, codes=good.codes + np.uint8(8))}, path)
    with pytest.raises(LampqError, match="layer a does not fit its width"):
        load_weights(path)
