"""What a float file overflows in float16, measured in onnxruntime against NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from lampq_onnx.errors import LampqError
from lampq_onnx.quantization.fitting import LARGEST_HALF
from lampq_onnx.runtime.overflows import MARGIN, measure_overflows
from tests.converter.graphs import Builder

LIMIT = LARGEST_HALF / MARGIN


def file_of(folder: Path, factor: float) -> Path:
    """Images times ``factor``, and their normalization along the last axis."""
    builder = Builder()
    scaled = builder.rename(builder.op("Mul", "x", builder.constant("factor", factor)), "scaled")
    ones, zeros = builder.constant("ones", np.ones(32)), builder.constant("zeros", np.zeros(32))
    builder.rename(builder.op("LayerNormalization", scaled, ones, zeros, axis=-1), "normal")
    builder.rename(builder.op("Add", "normal", "zeros"), "y")
    path = folder / "float.onnx"
    onnx.save(builder.model({"x": ["n", 1, 2, 32]}, {"y": ["n", 1, 2, 32]}), path)
    return path


def images(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, 1, 2, 32)).astype(np.float32)


def test_tensors_and_sums_of_squares_are_found_by_their_size(tmp_path: Path) -> None:
    most = max(float(np.abs(images(seed)).max()) for seed in (0, 1))
    centered = [images(seed).astype(np.float64) for seed in (0, 1)]
    squares = max(float(((x - x.mean(-1, keepdims=True)) ** 2).sum(-1).max()) for x in centered)
    for factor, values, norms in (
        (0.99 * np.sqrt(LIMIT / squares), (), ()),
        (1.01 * np.sqrt(LIMIT / squares), (), ("normal",)),
        (0.99 * LIMIT / most, (), ("normal",)),
        (1.01 * LIMIT / most, ("scaled",), ("normal",)),
    ):
        found = measure_overflows(file_of(tmp_path, float(factor)), [images(0), images(1)], threads=1)
        assert (found.values, found.norms) == (values, norms)
    assert found.wide(wide_sums=True) == {"scaled"}
    assert found.wide(wide_sums=False) == {"scaled", "normal"}


def test_every_batch_counts(tmp_path: Path) -> None:
    path = file_of(tmp_path, 1.0)
    batches = [images(0), np.float32(1e5) * images(1), images(2)]
    assert "normal" in measure_overflows(path, batches, threads=1).norms


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    bad = images()
    bad[0, 0, 0, 0] = np.nan
    with pytest.raises(LampqError, match="holds NaN or infinity"):
        measure_overflows(file_of(tmp_path, 1.0), [bad], threads=1)


def test_a_normalization_of_a_constant_is_measured_too(tmp_path: Path) -> None:
    b = Builder()
    queries = b.constant("queries", 1e3 * np.arange(32, dtype=np.float32).reshape(1, 1, 1, 32))
    ones, zeros = b.constant("ones", np.ones(32)), b.constant("zeros", np.zeros(32))
    b.rename(b.op("LayerNormalization", queries, ones, zeros, axis=-1), "normal")
    b.rename(b.op("Add", "x", "normal"), "y")
    onnx.save(b.model({"x": ["n", 1, 2, 32]}, {"y": ["n", 1, 2, 32]}), tmp_path / "float.onnx")
    found = measure_overflows(tmp_path / "float.onnx", [images()], threads=1)
    assert (found.values, found.norms) == ((), ("normal",))
