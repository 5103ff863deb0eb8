"""`quantize --dry-run` of a file says what was not done to its graph, and why."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest

import lampq_onnx
from tests.cli.conftest import invoke
from tests.converter.graphs import vit

IMAGES = ("--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5")


def almost_gelu(factor: float) -> onnx.ModelProto:
    """A transformer with erf(x / (factor * sqrt(2))) in its activation functions."""
    model = vit(gelu="erf")
    changed = 0
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.size == 1 and array.dtype == np.float32 and math.isclose(array.item(), 2**0.5, rel_tol=1e-6):
            tensor.CopyFrom(onnx.numpy_helper.from_array(array * np.float32(factor), tensor.name))
            changed += 1
    assert changed
    return model


@pytest.mark.parametrize(("factor", "reported"), [(1.0, False), (1.1, True)])
def test_the_dry_run_of_a_file_prints_what_was_not_done(factor: float, reported: bool, tmp_path: Path) -> None:
    onnx.save(almost_gelu(factor), tmp_path / "model.onnx")
    code, out, err = invoke("quantize", tmp_path / "model.onnx", "--dry-run", *IMAGES)
    assert code == 0, err
    lines = [line for line in out.splitlines() if "not done here, because" in line]
    assert len(lines) == reported
    assert ("2 GELU joined" in out) != reported
    found = lampq_onnx.recognize(tmp_path / "model.onnx", mean=(0.5,) * 3, std=(0.5,) * 3)
    assert [f"- {entry.sentence()}" for entry in found.not_done] == lines
    if reported:
        x = np.linspace(-8, 8, 321)
        gelu, other = (x / 2 * (1 + np.vectorize(math.erf)(x / (by * 2**0.5))) for by in (1.0, factor))
        (entry,) = found.not_done
        assert entry.step == "FuseGelu"
        assert len(entry.where) == 2
        assert f"by {np.abs(gelu - other).max():.1g} for" in entry.reason
