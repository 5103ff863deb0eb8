"""Files for TensorRT in the builder of TensorRT-RTX, which needs no GPU."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lampq_onnx.converter import convert_model
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.model_file import save_model
from lampq_onnx.runtime.tensorrt_rtx import _LAYER, _read, build_engine
from lampq_onnx.targets import TARGETS, Target
from tests.converter.graphs import measured, plan_on, vit

ROOT = Path(__file__).parents[2]
INSTALLED = importlib.util.find_spec("tensorrt_rtx_bindings") is not None
PYTHON = sys.executable if INSTALLED else os.environ.get("LAMPQ_TENSORRT_PYTHON")
"""An interpreter with tensorrt-rtx, which may be that of another environment."""

LAYERS = [f"blocks.{i}.{layer}" for i in range(2) for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
TENSORRT = TARGETS["tensorrt"]


def rows_of(folder: Path, *targets: Target) -> list[dict[str, object]]:
    """What the builder says of the tiny model for some targets."""
    files = []
    for number, target in enumerate(targets):
        plan = plan_on(target, ["patch_embed.proj", *LAYERS, "head"], 8 if number else 4)
        files.append(folder / f"{number}.onnx")
        save_model(convert_model(measured(vit()), plan, target=target).model, files[-1])
    command = [str(PYTHON), "-m", "tools.bench.tensorrt", "--json", "--batch", "4", *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.skipif(
    PYTHON is None, reason="tensorrt-rtx is not installed, and LAMPQ_TENSORRT_PYTHON names no interpreter"
)
def test_every_product_is_one_of_integers_by_the_engine_s_own_report(tmp_path: Path) -> None:
    four, eight, whole, fp8, other = rows_of(
        tmp_path,
        TENSORRT,
        TENSORRT,
        dataclasses.replace(TENSORRT, part_products=False),
        TARGETS["tensorrt-fp8"],
        TARGETS["onnxruntime-x86-avx2"],
    )
    wanted = dict.fromkeys(["patch_embed.proj", *LAYERS, "head"], "Int8")
    assert four["products"] == eight["products"] == wanted
    assert fp8["products"] == dict.fromkeys(wanted, "FP8")
    # Between the products everything is in float16; images and answers are in float32.
    for row in (four, eight, fp8):
        assert isinstance(row["written"], dict)
        assert row["written"]["Half"] > 5 * row["written"]["Float"]
    # One product for queries, keys and values is taken apart by TensorRT, which then multiplies in float.
    assert whole["products"] == {**wanted, **{name: "Int8 x Half" for name in LAYERS if name.endswith("qkv")}}
    assert "TensorRT cannot read" in str(other["refused"])


def test_the_report_of_a_layer_is_read() -> None:
    text = (
        "Name: a.b_myl0_3, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [-1,32], Datatype: Int8, Format: (Linear) "
        "Row major linear format }], Constants: [ { Name: w, Dimensions: [32,8], Datatype: Int8, Format: (Linear) }, "
        "{ Name: alpha, Dimensions: [1], Datatype: Float, Format: (Linear) }], Outputs: [ { Name: y, Dimensions: "
        "[-1,8], Datatype: Half, Format: (Linear) }], TacticName: stub, StreamId: 0, Metadata: [ONNX Layer: a.b]"
        "[ONNX Layer: a.b.input.dequantize]"
    )
    match = _LAYER.search(f"before\n{text}\nafter")
    assert match is not None
    layer = _read(match)
    assert (layer.name, layer.kind, layer.precision) == ("a.b_myl0_3", "gemm", "Int8")
    assert (layer.inputs, layer.constants, layer.outputs) == (("Int8",), ("Int8", "Float"), ("Half",))
    assert layer.origins == ("a.b", "a.b.input.dequantize")


@pytest.mark.skipif(INSTALLED, reason="tensorrt-rtx is installed")
def test_without_the_package_the_message_names_the_extra(tmp_path: Path) -> None:
    with pytest.raises(LampqError, match="is not installed") as caught:
        build_engine(tmp_path / "model.onnx")
    assert caught.value.hint == "install lampq-onnx[tensorrt]"
