"""Files for QNN in the software HTP of its x86-64 wheel."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan
from lampq_onnx.converter import convert_model
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.model_file import save_model
from lampq_onnx.runtime.qnn import run_on_qnn
from lampq_onnx.targets import TARGETS
from tests.converter.graphs import as_ir, vit

ROOT = Path(__file__).parents[2]
INSTALLED = importlib.util.find_spec("onnxruntime_qnn") is not None
PYTHON = sys.executable if INSTALLED else os.environ.get("LAMPQ_QNN_PYTHON")
"""An interpreter with onnxruntime-qnn, which may be that of another environment."""

WIDTHS = ((4, 8), (4, 16), (8, 8), (8, 16))


def plan_of(*widths: tuple[int, int]) -> BitPlan:
    """A plan for the tiny model, whose layers take the widths in turns."""
    layers = [f"blocks.{i}.{layer}" for i in range(2) for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    interval = {
        "activation_range": ActivationRange(low=-4.0, high=4.0),
        "output_range": ActivationRange(low=-12.0, high=12.0),
    }
    names = ["patch_embed.proj", *layers, "head"]
    return BitPlan(
        layers={
            name: LayerPlan(
                weight_bits=widths[i % len(widths)][0], activation_bits=widths[i % len(widths)][1], **interval
            )
            for i, name in enumerate(names)
        }
    )


@pytest.mark.skipif(
    PYTHON is None, reason="onnxruntime-qnn is not installed, and LAMPQ_QNN_PYTHON names no interpreter"
)
def test_every_product_runs_on_integers_in_one_partition(tmp_path: Path) -> None:
    files, target = [], TARGETS["onnxruntime-qnn"]
    for number, widths in enumerate(([(4, 8)], [(8, 16)], WIDTHS)):
        path = tmp_path / f"{number}.onnx"
        save_model(convert_model(as_ir(vit()), plan_of(*widths), target=target).model, path)
        files.append(str(path))
    command = [str(PYTHON), "-m", "tools.bench.qnn", "--json", "--layers", "--count", "4", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    # Results are rounded to steps of 24 / 255 in an 8-bit layer, and values on a boundary may fall to either side.
    for row, bound in zip(rows, (0.2, 0.005, 0.2), strict=True):
        assert not row["refused"]
        assert row["partitions"] == 1
        assert not row["dequantized"]
        # The images are quantized before they reach the NPU.
        assert row["placed"].get("CPUExecutionProvider", {}) in ({}, {"QuantizeLinear": 1})
        assert row["error"] < bound
        assert row["layers"].keys() == plan_of((8, 8)).layers.keys()
        assert max(row["layers"].values()) < bound
        assert max(row["levels"].values()) < 1.1


@pytest.mark.skipif(INSTALLED, reason="onnxruntime-qnn is installed")
def test_without_the_provider_the_message_names_its_package() -> None:
    with pytest.raises(LampqError, match="only where its onnxruntime provider is installed") as caught:
        run_on_qnn(b"", np.zeros((1, 1), np.float32))
    assert caught.value.hint == "pip install onnxruntime-qnn"
