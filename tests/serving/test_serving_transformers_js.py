"""Packages for transformers.js: what the library reads, and its answers in Node where it is installed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from lampq_onnx.artifacts.task import TaskSpec
from lampq_onnx.converter import convert_model
from lampq_onnx.data import Preprocessing
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.keys import SOURCE_KEY
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.metadata import write_metadata
from lampq_onnx.graph.model_file import save_model
from lampq_onnx.graph.source import constants_sha256
from lampq_onnx.serving.formats import package
from lampq_onnx.serving.web_images import preprocessor_config
from lampq_onnx.targets import TARGETS, Packing
from tests.converter.graphs import CLASSES, SIDE, as_ir, plan_for, vit
from tests.serving.served import answers, preprocessing
from tools.bench import web
from tools.bench.web.__main__ import main as compare_in_node

FACTS = preprocessing(crop_mode="squash", interpolation="bilinear", mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
NAMES = tuple(f"animal {index}" for index in range(CLASSES))


def write_result(folder: Path, packing: Packing = "exact", task: TaskSpec | None = None) -> Path:
    """A folder with a quantized and a float file."""
    spec = TaskSpec(classes=NAMES) if task is None else task
    model = as_ir(vit(blocks=1))
    write_metadata(model, "deit_small", FACTS, CLASSES, spec)
    save_model(model, folder / "float.onnx")
    source = constants_sha256(model)
    plan = plan_for([layer.name for layer in find_layers(model.graph)], weight_bits=4)
    quantized = convert_model(model, plan, packing=packing, target=TARGETS["onnxruntime-arm64"]).model
    write_metadata(quantized, "deit_small", FACTS, CLASSES, spec)
    if source is not None:
        quantized.metadata_props[SOURCE_KEY] = source
    save_model(quantized, folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `quantize` writes it."""
    return write_result(tmp_path_factory.mktemp("result"))


def test_both_files_have_the_names_of_the_library(folder: Path, tmp_path: Path) -> None:
    packaged = package(folder, "transformers-js", tmp_path / "web")
    images = np.random.default_rng(0).normal(size=(3, 3, SIDE, SIDE)).astype(np.float32)
    for own, name in (("model.onnx", "onnx/model_quantized.onnx"), ("float.onnx", "onnx/model.onnx")):
        path = tmp_path / "web" / name
        graph = onnx.load(path).graph
        assert ([v.name for v in graph.input], [v.name for v in graph.output]) == (["pixel_values"], ["logits"])
        assert np.array_equal(answers(path, images), answers(folder / own, images))
        assert packaged.files[name] == path.stat().st_size
    config = json.loads((tmp_path / "web" / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "deit"
    assert [config["id2label"][str(index)] for index in range(CLASSES)] == list(NAMES)
    assert config["label2id"][NAMES[1]] == 1
    assert config["transformers.js_config"] == {"dtype": "q8"}


def test_a_file_alone_has_no_float_file(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "model.onnx", tmp_path / "model.onnx")
    packaged = package(tmp_path / "model.onnx", "transformers-js")
    assert [name for name in packaged.files if name.endswith(".onnx")] == ["onnx/model_quantized.onnx"]


def test_a_float_file_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "model.onnx", tmp_path / "model.onnx")
    other = onnx.load(folder / "float.onnx")
    weight = max(other.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.raw_data = bytes(len(weight.raw_data))
    onnx.save(other, tmp_path / "float.onnx")
    with pytest.raises(LampqError, match="was not made from"):
        package(tmp_path / "model.onnx", "transformers-js")
    assert not (tmp_path / "transformers-js").exists()


def test_native_weights_are_refused(tmp_path: Path) -> None:
    write_result(tmp_path, packing="native")
    with pytest.raises(LampqError, match="INT4, which browsers do not read") as error:
        package(tmp_path, "transformers-js")
    assert "--packing exact" in (error.value.hint or "")


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    write_result(tmp_path, task=TaskSpec(kind="multi-label"))
    with pytest.raises(LampqError, match="task is multi-label"):
        package(tmp_path, "transformers-js")


def prepared_as_the_library_does(config: dict, image: np.ndarray) -> np.ndarray:
    """What its image processor computes after resizing, by its own code: float (h, w, 3) to (3, h, w)."""
    values = image * config["rescale_factor"]
    values = (values - np.array(config["image_mean"])) / np.array(config["image_std"])
    if config["do_flip_channel_order"]:
        values = values[..., ::-1]
    return values.transpose(2, 0, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"channel_order": "bgr"},
        {"rescale_factor": 1 / 127.5, "rescale_offset": -1.0},
    ],
)
def test_pixels_are_normalized_alike(changes: dict) -> None:
    facts = FACTS.model_copy(update=changes)
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    found = prepared_as_the_library_does(preprocessor_config(facts, Path("model.onnx")), image)
    assert np.allclose(found, facts.normalize(image[None])[0], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"crop_mode": "center", "crop_pct": 0.5}, {"size": {"shortest_edge": 2 * SIDE}, "do_center_crop": True}),
        ({"crop_pct": 0.5}, {"size": {"height": 2 * SIDE, "width": 2 * SIDE}, "do_center_crop": True}),
        ({"crop_mode": "letterbox"}, {"size": {"longest_edge": SIDE}, "do_pad": True}),
        ({"resize": {"to": "stretch", "sides": (5, 6), "then": "crop"}}, {"size": {"height": 5, "width": 6}}),
        ({"resize": {"to": "shortest", "sides": (9,), "then": "crop"}}, {"size": {"shortest_edge": 9}}),
        ({"resize": {"to": "longest", "sides": (4,), "then": "pad"}}, {"size": {"longest_edge": 4}, "do_pad": True}),
        ({"resize": {"to": "none"}}, {"do_resize": False}),
    ],
)
def test_images_are_resized_by_the_same_rule(changes: dict, wanted: dict) -> None:
    facts = Preprocessing.model_validate(FACTS.model_dump() | changes)
    found = preprocessor_config(facts, Path("model.onnx"))
    assert {name: found[name] for name in wanted} == wanted
    for name in ("crop_size", "pad_size"):
        assert found.get(name) in (None, {"height": SIDE, "width": SIDE})


def test_images_that_the_library_cannot_make_are_refused() -> None:
    wide = FACTS.model_copy(update={"size": (SIDE, 2 * SIDE), "crop_mode": "center"})
    with pytest.raises(LampqError, match="cannot do"):
        preprocessor_config(wide, Path("model.onnx"))
    many = FACTS.model_copy(update={"channels": 4, "mean": (0.0,) * 4, "std": (1.0,) * 4})
    with pytest.raises(LampqError, match="4 channels"):
        preprocessor_config(many, Path("model.onnx"))


def test_a_grey_model_takes_colors(tmp_path: Path) -> None:
    """The luminance stands before the first operator: grey pictures, which have equal channels, give the same."""
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 1, 4, 4])
    y = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", 3])
    rng = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(rng.normal(size=(16, 3)).astype(np.float32), "weight")
    nodes = [
        onnx.helper.make_node("Flatten", ["x"], ["flat"]),
        onnx.helper.make_node("MatMul", ["flat", "weight"], ["logits"], name="head"),
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "grey", [x], [y], [weight]),
        ir_version=10,
        opset_imports=[onnx.helper.make_opsetid("", 20)],
    )
    facts = FACTS.model_copy(update={"size": (4, 4), "channels": 1, "mean": (0.5,), "std": (0.3,)})
    graph = as_ir(model)
    write_metadata(graph, "grey", facts, 3, TaskSpec())
    plan = plan_for([layer.name for layer in find_layers(graph.graph)], weight_bits=8)
    save_model(convert_model(graph, plan, target=TARGETS["onnxruntime-arm64"]).model, tmp_path / "model.onnx")
    package(tmp_path / "model.onnx", "transformers-js")
    images = rng.normal(size=(2, 1, 4, 4)).astype(np.float32)
    found = answers(tmp_path / "transformers-js" / "onnx" / "model_quantized.onnx", np.repeat(images, 3, axis=1))
    assert np.allclose(found, answers(tmp_path / "model.onnx", images), atol=1e-5)


def test_node_gives_the_same_answers(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    modules = os.environ.get("LAMPQ_NODE_MODULES")
    if modules is None or shutil.which("node") is None:
        pytest.skip("needs Node, and LAMPQ_NODE_MODULES: a node_modules with @huggingface/transformers")
    pixels = np.random.default_rng(1).integers(0, 256, (8, SIDE, SIDE, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels)
    words = [str(folder), "--images", str(tmp_path / "images.npz"), "--modules", modules, "--only", "node", "--json"]
    compare_in_node([*words, "--count", "8", "--runs", "1", "--loads", "1"])
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert row["runtime"].startswith("Node")
    for dtype in ("q8", "fp32"):
        assert row[dtype]["same"] == 1.0
        assert row[dtype]["error"] < 1e-3
    # These images have the size of the model's input, so the library does not resize them.
    assert row["same_files"] == 1.0
    assert Path(web.__file__).with_name("client.mjs").is_file()
