"""The parity table: every form within its bound, parts of results included, and a wrong result outside of it."""

from __future__ import annotations

import numpy as np
import pytest

from tools.bench import parity

WORDS = ["parity", "--packings", "exact", "--bits", "5", "--activation-bits", "8", "--opsets", "20"]


@pytest.mark.parametrize("target", ["onnxruntime-x86-avx2", "onnxruntime-x86-vnni"])
def test_every_runtime_computes_the_same(
    target: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [*WORDS, "--runtimes", "onnxruntime,reference", "--target", target])
    assert parity.main() == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith(("| ort", "| onnx"))]
    assert len(rows) == 9
    assert all(int(row[2]) == 2 and float(row[4]) < 1e-6 for row in rows)


def test_parts_are_joined_along_the_channels() -> None:
    wanted = np.arange(24.0).reshape(2, 3, 4)
    parts = [wanted[..., :1], wanted[..., 1:].reshape(2, 3, 3, 1)]
    assert parity.relative(parts, wanted) == 0
    assert parity.relative(parts[::-1], wanted) > 0.1
    assert parity.relative(parts[:1], wanted) == float("inf")


def test_a_wrong_runtime_is_outside(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = parity.with_reference
    monkeypatch.setattr(parity, "with_reference", lambda model, x: [1.001 * part for part in right(model, x)])
    monkeypatch.setattr("sys.argv", [*WORDS, "--runtimes", "reference"])
    assert parity.main() == 1
    assert "A layer above" in capsys.readouterr().out
