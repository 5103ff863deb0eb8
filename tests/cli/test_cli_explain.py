"""`explain` and `convert` say what was not done to the graph, and why."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

from lampq_onnx.artifacts import BitPlan, ChannelWidths
from lampq_onnx.cli.main import app
from lampq_onnx.converter import convert_model
from lampq_onnx.graph.descriptions import describe_layers
from lampq_onnx.graph.keys import MODEL_KEY
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.model_file import save_model
from lampq_onnx.targets import TARGETS
from tests.converter.graphs import DIM, as_ir, plan_for, vit

WORDS = "its input has fewer than 8 bits, whose steps are too coarse for a bias in whole steps"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """float.onnx, plan.json and model.onnx of a tiny transformer; the inputs of fc1 are narrow."""
    folder = tmp_path_factory.mktemp("explain")
    model = vit()
    onnx.save(model, folder / "float.onnx")
    names = [layer.name for layer in find_layers(as_ir(model).graph)]
    narrow = plan_for([name for name in names if name.endswith("fc1")], weight_bits=4, activation_bits=7)
    plan = BitPlan(layers={**plan_for(names, weight_bits=4).layers, **narrow.layers})
    plan.save(folder / "plan.json")
    save_model(convert_model(as_ir(model), plan, target=TARGETS["onnxruntime-x86-vnni"]).model, folder / "model.onnx")
    return folder


def said(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "400"})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_explain_says_what_was_not_done(files: Path) -> None:
    lines = said("explain", files / "model.onnx", "--runs", 1).splitlines()
    (line,) = (line for line in lines if WORDS in line)
    assert line.startswith("- bias added by the integer kernel (BiasInGemm): not done here, because")
    assert line.endswith("(2: blocks.0.mlp.fc1, blocks.1.mlp.fc1)")


def test_explain_as_json(files: Path) -> None:
    found = json.loads(said("explain", files / "model.onnx", "--runs", 1, "--json"))
    entries = {entry["reason"]: entry["where"] for entry in found["not_done"]}
    assert entries[WORDS] == ["blocks.0.mlp.fc1", "blocks.1.mlp.fc1"]
    float_file = json.loads(said("explain", files / "float.onnx", "--runs", 1, "--json"))
    assert float_file["not_done"] == []


def test_convert_says_the_same(files: Path, tmp_path: Path) -> None:
    output = tmp_path / "again.onnx"
    words = ("--plan", files / "plan.json", "--target", "onnxruntime-x86-vnni", "-o", output)
    converted = [line for line in said("convert", files / "float.onnx", *words).splitlines() if line.startswith("- ")]
    explained = [line for line in said("explain", output, "--runs", 1).splitlines() if line.startswith("- ")]
    assert converted == explained
    assert len(converted) > 1


def test_a_folder_in_the_place_of_a_file_is_called_one(files: Path) -> None:
    for command in (["explain"], ["inspect"], ["validate", "--validation", "digits"]):
        done = CliRunner().invoke(app, [command[0], str(files), *command[1:]])
        assert str(done.exception).startswith(f"{files} is a folder, and one ONNX file is needed")
        assert str(files / "model.onnx") in str(getattr(done.exception, "hint", ""))


def test_explain_shows_the_widths_of_channels(files: Path, tmp_path: Path) -> None:
    plan = BitPlan.load(files / "plan.json")
    name = "blocks.0.mlp.fc1"
    widths = ChannelWidths(counts={2: DIM, 4: DIM}, order=tuple(range(2 * DIM)))
    mixed = plan.with_channel_widths({name: widths})
    float_model = as_ir(onnx.load(files / "float.onnx"))
    model = convert_model(float_model, mixed, target=TARGETS["onnxruntime-x86-vnni"]).model
    model.metadata_props[MODEL_KEY] = "tiny"
    describe_layers(model, mixed)
    save_model(model, tmp_path / "m.onnx")
    (line,) = (line for line in said("explain", tmp_path / "m.onnx", "--runs", 1).splitlines() if line.startswith(name))
    assert "3.00 (2-4)/7" in line
    assert model.graph.name == "tiny"
    assert f"{name}: weights 3.00 (2-4) bits, inputs 7 bits" in {node.doc_string for node in model.graph}
