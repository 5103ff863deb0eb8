"""Pairs of files that must not be compared, and files that must not be taken for others."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lampq_onnx
from lampq_onnx import LampqError, Report, UsageError
from lampq_onnx.config.output import OutputOptions
from lampq_onnx.data import Preprocessing
from lampq_onnx.evaluation.comparable import ModelFile, require_comparable
from lampq_onnx.graph.keys import SOURCE_KEY
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.metadata import write_metadata
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.graph.quantized_operators import quantized_node
from lampq_onnx.graph.source import constants_sha256
from lampq_onnx.quantization.sketch import weight_sketch
from lampq_onnx.targets import TARGETS
from lampq_onnx.workflow.output import write_quantized
from tests.cli.conftest import invoke
from tests.converter.graphs import CLASSES, SIDE, as_ir, as_proto, plan_for, vit

FACTS = Preprocessing(
    size=(SIDE, SIDE), crop_pct=1.0, crop_mode="center", interpolation="bicubic", mean=(0.5,) * 3, std=(0.25,) * 3,
    channels=3,
)  # fmt: skip
QUICK = ("--latency-runs", "1", "--threads", "1")

Change = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with float.onnx, model.onnx that was made from it, plan.json and images.npz."""
    folder = tmp_path_factory.mktemp("pair")
    model = as_ir(vit(blocks=1))
    write_metadata(model, "tiny", FACTS, CLASSES)
    onnx.save(as_proto(model), folder / "float.onnx")
    source = load_model(folder / "float.onnx")
    plan = plan_for([layer.name for layer in find_layers(source.graph)], weight_bits=7)
    plan.save(folder / "plan.json")
    write_quantized(source, plan, {}, folder / "model.onnx", OutputOptions(), TARGETS["onnxruntime-x86-vnni"])
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, size=(8, SIDE, SIDE, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", images=pixels, labels=rng.integers(0, CLASSES, 8))
    return folder


def changed(path: Path, target: Path, change: Change) -> Path:
    """A copy of a file, changed."""
    model = onnx.load(path)
    change(model)
    onnx.save(model, target)
    return target


def validate(model: Path, reference: Path, folder: Path, *more: str | Path) -> tuple[int, str, str]:
    return invoke("validate", model, "--reference", reference, "--validation", folder / "images.npz", *QUICK, *more)


def refused(model: Path, reference: Path, folder: Path, *words: str, code: int = 1) -> None:
    """From the command line and from Python, with the same message, before anything is measured."""
    found, _, said = validate(model, reference, folder)
    assert found == code, said
    assert "internal error" not in said
    assert said.startswith("error: ")
    for word in words:
        assert word in said
    with pytest.raises(UsageError if code == 2 else LampqError) as raised:
        lampq_onnx.validate(model, reference, folder / "images.npz", threads=1, latency_runs=1)
    assert raised.value.message in said.replace("\n", " ")


def test_a_pair_that_belongs_together(pair: Path, tmp_path: Path) -> None:
    code, out, err = validate(pair / "model.onnx", pair / "float.onnx", pair, "-o", tmp_path / "report.json")
    assert code == 0, err
    assert "PASS" in out
    assert Report.load(tmp_path / "report.json").model_sha256 is not None
    model, reference = load_model(pair / "model.onnx"), load_model(pair / "float.onnx")
    assert model.metadata_props[SOURCE_KEY] == constants_sha256(reference)
    # Saved again with its weights beside it, it is the same file still.
    onnx.save(onnx.load(pair / "float.onnx"), tmp_path / "again.onnx", save_as_external_data=True, size_threshold=1)
    assert constants_sha256(load_model(tmp_path / "again.onnx")) == constants_sha256(reference)


@pytest.mark.parametrize("batches", [(1, None), (None, 2), (1, 1)])
def test_files_with_a_fixed_batch(pair: Path, tmp_path: Path, batches: tuple[int | None, int | None]) -> None:
    def fixed(size: int | None) -> Change:
        def change(model: onnx.ModelProto) -> None:
            if size is not None:
                model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size

        return change

    model = changed(pair / "model.onnx", tmp_path / "q.onnx", fixed(batches[0]))
    reference = changed(pair / "float.onnx", tmp_path / "f.onnx", fixed(batches[1]))
    code, _, err = validate(model, reference, pair, "--latency-batch", "2", "-o", tmp_path / "r.json")
    assert code == 0, err
    code, _, err = validate(pair / "model.onnx", pair / "float.onnx", pair, "-o", tmp_path / "free.json")
    assert code == 0, err
    found, free = (Report.load(tmp_path / name) for name in ("r.json", "free.json"))
    assert found.accuracy.agreement == free.accuracy.agreement
    assert found.accuracy.logit_sqnr_db == pytest.approx(free.accuracy.logit_sqnr_db, abs=0.1)
    assert found.fidelity.layer_max == pytest.approx(free.fidelity.layer_max, abs=1e-6)


def test_swapped_files(pair: Path) -> None:
    refused(pair / "float.onnx", pair / "model.onnx", pair, "swapped", "model.onnx is quantized", code=2)


def test_the_same_file_twice(pair: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.onnx"
    link.symlink_to(pair / "model.onnx")
    refused(pair / "model.onnx", link, pair, "are the same file", code=2)
    shutil.copy(pair / "model.onnx", tmp_path / "copy.onnx")
    refused(pair / "model.onnx", tmp_path / "copy.onnx", pair, "copy.onnx is quantized itself")
    shutil.copy(pair / "float.onnx", tmp_path / "float2.onnx")
    refused(tmp_path / "float2.onnx", pair / "float.onnx", pair, "float2.onnx holds no quantized layer")


def other_input_name(model: onnx.ModelProto) -> None:
    old = model.graph.input[0].name
    model.graph.input[0].name = "pixels"
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = "pixels"


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("extra", TensorProto.FLOAT, [1]))


def larger_images(model: onnx.ModelProto) -> None:
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 2 * SIDE


def half_input(model: onnx.ModelProto) -> None:
    value = model.graph.input[0]
    value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == value.name:
                node.input[i] = "wide"
    model.graph.node.insert(0, helper.make_node("Cast", [value.name], ["wide"], to=TensorProto.FLOAT))


def replaced_output(*nodes: onnx.NodeProto, info: onnx.ValueInfoProto, constants: tuple[onnx.TensorProto, ...] = ()):
    def change(model: onnx.ModelProto) -> None:
        own = model.graph.output[0].name
        for node in nodes:
            node = copy.deepcopy(node)  # noqa: PLW2901
            node.input[0] = own if node.input[0] == "OUT" else node.input[0]
            model.graph.node.append(node)
        model.graph.initializer.extend(constants)
        del model.graph.output[:]
        model.graph.output.append(info)

    return change


def second_output(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", [model.graph.output[0].name], ["more"]))
    model.graph.output.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, None))


CUT = (
    numpy_helper.from_array(np.array([0]), "cut.start"),
    numpy_helper.from_array(np.array([3]), "cut.end"),
    numpy_helper.from_array(np.array([1]), "cut.axis"),
)
SLICE = helper.make_node("Slice", ["OUT", "cut.start", "cut.end", "cut.axis"], ["less"])
TEXT = helper.make_node("Cast", ["OUT"], ["text"], to=TensorProto.STRING)
FIRST = helper.make_node("ArgMax", ["OUT"], ["first"], axis=1)
LIST = helper.make_node("SequenceConstruct", ["OUT"], ["list"])
MEAN = helper.make_node("ReduceMean", ["OUT"], ["mean"], keepdims=0)


def info(name: str, kind: int, shape: list[int | str] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


ENDS: dict[str, tuple[Change, str]] = {
    "input name": (other_input_name, "an input named"),
    "inputs": (second_input, "2"),
    "size": (larger_images, "of shape"),
    "type": (half_input, "FLOAT16"),
    "outputs": (second_output, "2"),
    "classes": (replaced_output(SLICE, info=info("less", TensorProto.FLOAT, ["n", 3]), constants=CUT), "3]"),
    "classes, not said": (replaced_output(SLICE, info=info("less", TensorProto.FLOAT, None), constants=CUT), "shapes"),
    "text": (replaced_output(TEXT, info=info("text", TensorProto.STRING, None)), "holds text"),
    "integers": (replaced_output(FIRST, info=info("first", TensorProto.INT64, None)), "INT64"),
    "no images": (replaced_output(MEAN, info=info("mean", TensorProto.FLOAT, None)), "for 8 images"),
    "a list": (
        replaced_output(LIST, info=helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, None)),
        "not a tensor",
    ),
}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("side", ["quantized", "float"])
def test_other_inputs_or_outputs(pair: Path, tmp_path: Path, name: str, side: str) -> None:
    change, word = ENDS[name]
    model, reference = pair / "model.onnx", pair / "float.onnx"
    if side == "quantized":
        model = changed(model, tmp_path / "q.onnx", change)
    else:
        reference = changed(reference, tmp_path / "f.onnx", change)
        word = "was not made from" if name == "classes, not said" else word  # the source tells before anything runs
    refused(model, reference, pair, word)


@pytest.mark.parametrize("name", ["text", "integers", "a list", "no images", "inputs", "type"])
def test_both_files_alike_and_none_to_be_scored(pair: Path, tmp_path: Path, name: str) -> None:
    change, _ = ENDS[name]
    model = changed(pair / "model.onnx", tmp_path / "q.onnx", change)
    refused(model, changed(pair / "float.onnx", tmp_path / "f.onnx", change), pair)


def other_weights(model: onnx.ModelProto) -> None:
    rng = np.random.default_rng(7)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(
                numpy_helper.from_array(rng.normal(scale=values.std(), size=values.shape).astype("f4"), tensor.name)
            )


def other_norm(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) == 1)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.001, tensor.name))


def metadata(key: str, value: str | None) -> Change:
    def change(model: onnx.ModelProto) -> None:
        kept = {p.key: p.value for p in model.metadata_props if p.key != f"lampq_onnx.{key}"}
        helper.set_model_props(model, kept | ({} if value is None else {f"lampq_onnx.{key}": value}))

    return change


@pytest.mark.parametrize("change", [other_weights, other_norm])
def test_another_model_of_the_same_shapes(pair: Path, tmp_path: Path, change: Change) -> None:
    other = changed(pair / "float.onnx", tmp_path / "f.onnx", change)
    refused(pair / "model.onnx", other, pair, "was not made from", "f.onnx", "sha256")
    # Other tools' files say nothing of their source: nothing can be said.
    silent = changed(pair / "model.onnx", tmp_path / "q.onnx", lambda model: helper.set_model_props(model, {}))
    code, _, err = validate(silent, other, pair)
    assert code == 0, err


def test_layers_are_known_by_their_weights_where_the_source_is_not_said(pair: Path, tmp_path: Path) -> None:
    model = as_ir(onnx.load(pair / "float.onnx"))
    graph_layers = {graph_layer.name: graph_layer for graph_layer in find_layers(model.graph)}
    plan = plan_for(list(graph_layers), weight_bits=8)
    layers = {
        name: layer.model_copy(update={"sketch": weight_sketch(graph_layers[name].matrix())})
        for name, layer in plan.layers.items()
    }
    text = plan.model_copy(update={"layers": layers}).model_dump_json(exclude_none=True)

    def older(proto: onnx.ModelProto) -> None:
        metadata("source_sha256", None)(proto)
        metadata("plan", text)(proto)

    old = changed(pair / "model.onnx", tmp_path / "q.onnx", older)
    require_comparable(*(ModelFile(load_model(path), path) for path in (old, pair / "float.onnx")))
    other = changed(pair / "float.onnx", tmp_path / "f.onnx", other_weights)
    refused(old, other, pair, "was not made from", f"of its {len(layers)} layers have other weights")


@pytest.mark.parametrize(("key", "what"), [("model", "the model is"), ("num_classes", "number of classes")])
def test_files_that_say_they_are_of_others(pair: Path, tmp_path: Path, key: str, what: str) -> None:
    other = changed(pair / "float.onnx", tmp_path / "f.onnx", metadata(key, "77"))
    refused(pair / "model.onnx", other, pair, what, "77")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]) and None,
    "empty": lambda path: path.write_bytes(b"") and None,
    "text": lambda path: path.write_text("weights") and None,
    "no external data": lambda path: (
        onnx.save(onnx.load(path), path, save_as_external_data=True, location="gone.data", size_threshold=1)
        or (path.parent / "gone.data").unlink()
    ),
    "no inputs": lambda path: changed(path, path, lambda m: m.graph.ClearField("input")) and None,
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("file", ["model.onnx", "float.onnx"])
def test_damaged_files(pair: Path, tmp_path: Path, name: str, file: str) -> None:
    for own in ("model.onnx", "float.onnx"):
        shutil.copy(pair / own, tmp_path)
    DAMAGE[name](tmp_path / file)
    refused(tmp_path / "model.onnx", tmp_path / "float.onnx", pair, file)
    for words in (("explain",), ("inspect",), ("package", "--format", "ort")):
        code, _, err = invoke(words[0], tmp_path / file, *words[1:])
        assert code == 1
        assert file in err
        assert "internal error" not in err


QUANTIZED = {
    "QDQ": [helper.make_node("DequantizeLinear", ["w8", "s"], ["w"]), helper.make_node("MatMul", ["x", "w"], ["y"])],
    "QLinear": [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["x8"]),
        helper.make_node("QLinearMatMul", ["x8", "s", "z", "w8", "s", "z", "s", "z"], ["y8"]),
        helper.make_node("DequantizeLinear", ["y8", "s", "z"], ["y"]),
    ],
    "integers": [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["x8", "xs", "xz"]),
        helper.make_node("MatMulInteger", ["x8", "w8", "xz"], ["y32"]),
        helper.make_node("Cast", ["y32"], ["y"], to=TensorProto.FLOAT),
    ],
    "narrow weights": [
        helper.make_node("MatMulNBits", ["x", "w4", "s4"], ["y"], domain="com.microsoft", K=8, N=8, bits=4,
                         block_size=16),
    ],
    "in a branch": [
        helper.make_node("If", ["yes"], ["y"], **{
            branch: helper.make_graph(
                [
                    helper.make_node("DequantizeLinear", ["w8", "s"], ["w"]),
                    helper.make_node("MatMul", ["x", "w"], [branch]),
                ],
                branch, [], [helper.make_tensor_value_info(branch, TensorProto.FLOAT, None)],
            )
            for branch in ("then_branch", "else_branch")
        }),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_files_of_any_tool_are_no_float_files(pair: Path, tmp_path: Path, name: str) -> None:
    constants = {
        "w8": np.ones((8, 8), np.int8), "s": np.float32(0.1), "z": np.int8(0), "w4": np.ones((8, 1, 8), np.uint8),
        "s4": np.ones(8, np.float32), "yes": np.bool_(True),
    }  # fmt: skip
    graph = helper.make_graph(
        QUANTIZED[name], "g", [info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [info("y", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "other.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    assert quantized_node(load_model(path)) is not None
    refused(pair / "model.onnx", path, pair, "other.onnx is quantized itself")
    for words in (("convert", path, "--plan", pair / "plan.json", "-o", tmp_path / "m.onnx"), ("probe", path)):
        code, _, err = invoke(*words)
        assert code == 1, err
        assert "other.onnx is quantized already" in err
    assert not (tmp_path / "m.onnx").exists()


def test_our_own_files_are_not_converted_twice(pair: Path, tmp_path: Path) -> None:
    assert quantized_node(load_model(pair / "float.onnx")) is None
    code, _, err = invoke("convert", pair / "model.onnx", "--plan", pair / "plan.json", "-o", tmp_path / "m.onnx")
    assert code == 1
    assert "is quantized already" in err


def test_float_files_are_explained_and_inspected_and_not_packaged(pair: Path, tmp_path: Path) -> None:
    code, out, err = invoke("explain", pair / "float.onnx", "--runs", "1")
    assert code == 0, err
    assert "0 of" in out
    code, out, _ = invoke("inspect", pair / "float.onnx")
    assert code == 0
    assert "holds no quantized layers" in out
    code, _, err = invoke("package", pair / "float.onnx", "--format", "ort", "-o", tmp_path / "served")
    assert code == 1
    assert "float.onnx holds no quantized layer" in err
    assert not (tmp_path / "served").exists()


@pytest.mark.parametrize("older", [False, True])
def test_a_folder_whose_model_was_replaced_is_not_packaged(pair: Path, tmp_path: Path, older: bool) -> None:
    for own in ("model.onnx", "float.onnx"):
        shutil.copy(pair / own, tmp_path)
    code, _, err = validate(tmp_path / "model.onnx", tmp_path / "float.onnx", pair, "-o", tmp_path / "report.json")
    assert code == 0, err
    if older:
        found = Report.load(tmp_path / "report.json")
        found.model_copy(update={"model_sha256": None}).save(tmp_path / "report.json")
    code, _, err = invoke("package", tmp_path, "--format", "ort")
    assert code == 0, err
    shutil.rmtree(tmp_path / "ort")
    changed(pair / "model.onnx", tmp_path / "model.onnx", metadata("note", "another"))
    code, _, err = invoke("package", tmp_path, "--format", "ort")
    assert code == 1
    assert "model.onnx was replaced" in err
    assert not (tmp_path / "ort").exists()
    code, _, err = invoke("package", tmp_path / "model.onnx", "--format", "ort")  # named itself: as asked
    assert code == 0, err


@pytest.mark.parametrize("where", ["answers", "hidden"])
def test_a_file_with_nan_fails_in_every_form(pair: Path, tmp_path: Path, where: str) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        if where == "answers":
            old = model.graph.output[0].name
            model.graph.initializer.append(numpy_helper.from_array(np.float32(np.nan), "bad"))
            model.graph.node.append(helper.make_node("Add", [old, "bad"], ["spoiled"]))
            model.graph.output[0].name = "spoiled"
            return
        # Rounding to integers hides it from the answers.
        gain = next(n for n in model.graph.node if n.op_type == "LayerNormalization").input[1]
        tensor = next(t for t in model.graph.initializer if t.name == gain)
        values = numpy_helper.to_array(tensor).copy()
        values[0] = np.nan
        tensor.CopyFrom(numpy_helper.from_array(values, gain))

    bad = changed(pair / "model.onnx", tmp_path / "bad.onnx", spoil)
    files = {"--output": "r.json", "--junit": "g.xml", "--summary": "g.md"}
    more = [word for option, name in files.items() for word in (option, tmp_path / name)]
    code, out, err = validate(bad, pair / "float.onnx", pair, *more)
    assert code == 1
    assert "FAIL: finite answers" in out
    assert "NaN or infinity" in err
    report = Report.load(tmp_path / "r.json")
    assert "not-finite" in {problem.code for problem in report.problems}
    assert report.accuracy.broken == (8 if where == "answers" else 0)
    if where == "answers":
        assert (report.accuracy.agreement, report.accuracy.quantized.top1) == (0, 0)
    assert "**FAIL** bad.onnx: finite answers" in (tmp_path / "g.md").read_text(encoding="utf-8")
    suite = ET.parse(tmp_path / "g.xml").getroot()
    assert "finite answers" in {case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None}
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert 'id="gate">FAIL: finite answers' in page
    assert invoke("report", tmp_path / "r.json", "-o", tmp_path / "again.html")[0] == 0
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page
