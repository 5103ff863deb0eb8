"""What the speed benchmarks make and say, without timing anything that matters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from lampq_onnx.errors import LampqError
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.targets import TARGETS
from tests.converter.graphs import as_ir, count, kernels, plan_for, run, vit
from tools.bench import attention_edits, peers, runtime
from tools.bench.native_int4 import write_native_int4


@pytest.fixture
def source(tmp_path: Path) -> Path:
    onnx.save(vit(blocks=1), tmp_path / "tiny.float.onnx")
    return tmp_path / "tiny.float.onnx"


def test_native_int4_has_no_cast_and_no_integer_kernel(source: Path, tmp_path: Path) -> None:
    model = onnx.load(source)
    plan = plan_for([layer.name for layer in find_layers(as_ir(model).graph)], weight_bits=4)
    write_native_int4(source, plan, TARGETS["onnxruntime-x86-vnni"], tmp_path / "native.onnx")
    native = onnx.load(tmp_path / "native.onnx")
    assert count(native, "Cast") == 0
    stored = {t.name for t in native.graph.initializer if t.data_type == onnx.TensorProto.INT4}
    read = {node.input[0] for node in native.graph.node if node.op_type == "DequantizeLinear"}
    assert len(stored) == 6
    assert stored <= read
    assert "MatMulIntegerToFloat" not in kernels(native)
    images = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    wanted, found = run(model, images), run(native, images)
    assert np.linalg.norm(found - wanted) < 0.5 * np.linalg.norm(wanted)


def test_speed_prints_a_row_for_every_file(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = source.parent
    runtime.prepare(folder, "tiny", None)
    listed = json.loads((folder / "files.json").read_text(encoding="utf-8"))["files"]
    capsys.readouterr()
    runtime.speed(folder, batch=2, threads=1, runs=3)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(listed)
    assert rows[0].split(" | ")[3] == "1.00 [1.00, 1.00]"
    sizes = [float(row.split(" | ")[1]) for row in rows]
    assert sizes == [pytest.approx((folder / name).stat().st_size / 1e6, abs=0.01) for name in listed.values()]


def test_scales_are_folded_without_a_change(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "folded.onnx"
    assert attention_edits.fold_scales(source, path) == 1
    before, after = onnx.load(source), onnx.load(path)
    assert count(before, "Mul") - count(after, "Mul") == 1
    images = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(run(after, images), run(before, images), rtol=1e-4, atol=1e-5)


def test_products_of_attention_are_quantized(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    assert attention_edits.quantize_products(source, path) == 2
    model = onnx.load(path)
    assert count(model, "QuantizeLinear") == 4
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    restored = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    assert sum(set(node.input) <= restored for node in products) == 2


def test_attention_prints_a_row_for_every_edit(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runtime.attention(source.parent, "tiny", None, runs=2)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == [
        "| float, scale folded in 1 layers",
        "| W4A8, scale folded in 1 layers",
        "| W4A8, scale folded, 2 int8 products",
    ]
    assert "MatMulIntegerToFloat" in rows[2][1]
    assert all(len(row[4].split(", ")) == 5 for row in rows)


def test_an_edit_that_changes_the_answers_is_no_comparison(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    attention_edits.quantize_products(source, path)
    edit = attention_edits.Edit("int8", source, path, 1e-6)
    with pytest.raises(LampqError, match="int8: the edited file answers differently"):
        attention_edits.compare([edit], runs=1, repeats=1, folder=tmp_path)


def test_a_tool_that_fails_is_skipped_with_its_reason(source: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((1, 3, 4, 4), np.float32))
    found = peers._run(peers.Peer("none", "no-such-tool"), source, tmp_path / "images.npy", tmp_path, tmp_path)
    assert found == "KeyError: 'no-such-tool'"


def test_a_tool_s_file_comes_with_its_cost(source: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((1, 3, 4, 4), np.float32))
    peer = peers.Peer("dynamic", "ort-dynamic")
    found = peers._run(peer, source, tmp_path / "images.npy", tmp_path, tmp_path)
    assert isinstance(found, peers.Candidate), found
    assert count(onnx.load(found.path), "DynamicQuantizeLinear") > 0
    assert found.seconds is not None
    assert found.megabytes is not None
    assert found.megabytes > 10


def test_files_with_the_same_name_have_rows_of_their_own(tmp_path: Path) -> None:
    def written(*folders: str) -> Path:
        path = tmp_path.joinpath(*folders, "model.onnx")
        path.parent.mkdir(parents=True)
        onnx.save(vit(blocks=1), path)
        return path

    paths = [written("eight"), written("four")]
    assert [one.label for one in peers.own_files(paths)] == [
        "lampq-onnx, eight/model.onnx",
        "lampq-onnx, four/model.onnx",
    ]
    deeper = [written("a", "out"), written("b", "out")]
    assert len({one.label for one in peers.own_files(deeper)}) == 2
    with pytest.raises(SystemExit, match="given twice"):
        peers.own_files([paths[0], paths[0]])
