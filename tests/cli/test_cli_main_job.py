"""The whole line on the embedded default, and its stages alone."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import onnxruntime as ort
import pytest

from lampq_onnx import BitPlan, LayerPlan, Report, Sensitivities
from lampq_onnx.converter import inspect_model
from lampq_onnx.evaluation.records import bit_averages
from lampq_onnx.frontend.models.digits import split_images
from lampq_onnx.graph.keys import HASH_KEY, INPUTS_KEY, RECIPE_KEY
from lampq_onnx.graph.model_file import load_model
from tests.cli.conftest import QUICK, invoke

FILES = {
    "float.onnx",
    "sensitivity.json",
    "plan.json",
    "weights.safetensors",
    "model.onnx",
    "report.json",
    "recipe.toml",
    "report.html",
}


@pytest.fixture(scope="module")
def test_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "test.npz"
    pixels, labels = split_images("test")
    np.savez(path, images=pixels, labels=labels)
    return path


def test_the_files_and_nothing_else(digits_run: tuple[Path, str]) -> None:
    folder, out = digits_run
    assert set(os.listdir(folder)) == FILES
    for word in ("34 layers", "agreement", "uniform", "float", "speed", "top-1", "open "):
        assert word in out


def test_the_report_agrees_with_the_files(digits_run: tuple[Path, str], test_images: Path) -> None:
    folder, _ = digits_run
    report = json.loads((folder / "report.json").read_text())
    assert report["size"]["quantized_bytes"] == (folder / "model.onnx").stat().st_size
    assert report["size"]["float_bytes"] == (folder / "float.onnx").stat().st_size
    plan = BitPlan.load(folder / "plan.json")
    counted = [layer for layer in plan.layers.values() if not layer.fixed]
    average = sum(l.parameters * l.weight_bits for l in counted) / sum(l.parameters for l in counted)  # noqa: E741
    assert report["bits"]["weight_average"] == pytest.approx(average)
    assert average <= report["bits"]["budget"] == 3.0
    assert report["fidelity"]["layer_max"] < 1e-3
    assert abs(report["fidelity"]["excess_error"]) < 0.05
    assert abs(report["fidelity"]["simulation_excess"]) < 0.05
    # accuracy once more, by hand
    data = np.load(test_images)
    from lampq_onnx.graph.metadata import read_metadata

    facts = read_metadata(load_model(folder / "float.onnx"), folder / "float.onnx")
    from PIL import Image

    crops = np.stack([facts.preprocessing.crop(Image.fromarray(i[..., 0])) for i in data["images"]])
    batch = facts.preprocessing.normalize(crops)
    for key, name in (("float", "float.onnx"), ("quantized", "model.onnx")):
        logits = ort.InferenceSession(str(folder / name)).run(None, {"input": batch})[0]
        assert report["accuracy"][key]["top1"] == pytest.approx((logits.argmax(1) == data["labels"]).mean(), abs=0.005)
    assert report["accuracy"]["samples"] == len(data["labels"])
    # the mixed plan must be worth its name: closer to float than uniform bits of the same size
    assert report["accuracy"]["kl"] < report["baselines"]["uniform"]["accuracy"]["kl"]


def test_the_files_size_is_what_the_plan_promises(digits_run: tuple[Path, str]) -> None:
    folder, _ = digits_run
    report = Report.load(folder / "report.json")
    for layer in report.layers:
        assert layer.bytes == -(-layer.parameters * layer.weight_bits // 8)
    weights = {layer.name: layer.parameters for layer in report.layers}
    model = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    floats = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert max(int(np.prod(t.dims)) for t in floats) < min(n for n in weights.values() if n > 1000)
    assert all(opset.domain == "" for opset in model.opset_import)


def test_allocate_alone_gives_the_same_start_under_a_second(digits_run: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = digits_run
    code, out, err = invoke("allocate", folder / "sensitivity.json", "--bits", "3.5", "-o", tmp_path / "plan.json")
    assert code == 0, err
    plan = BitPlan.load(tmp_path / "plan.json")
    assert 3.4 < (plan.weight_average() or 0) <= 3.5
    assert "proven optimal" in out
    assert list(plan.layers) == [layer.name for layer in Sensitivities.load(folder / "sensitivity.json").layers]


def test_convert_alone_writes_the_same_file(digits_run: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = digits_run
    words = ("convert", folder / "float.onnx", "--plan", folder / "plan.json", "-o", tmp_path / "m.onnx")
    code, out, err = invoke(*words, "--weights", folder / "weights.safetensors")
    assert code == 0, err
    assert "gave the rounding of 34 of 34 layers" in out
    made, whole = onnx.load(tmp_path / "m.onnx"), onnx.load(folder / "model.onnx")
    for prop in [p for p in whole.metadata_props if p.key in (RECIPE_KEY, INPUTS_KEY, HASH_KEY)]:
        whole.metadata_props.remove(prop)  # a plan may have been edited, so what was made from one does not have them
    assert made.SerializeToString(deterministic=True) == whole.SerializeToString(deterministic=True)
    code, _, err = invoke(*words, "--overwrite")
    assert code == 0, err
    assert (tmp_path / "m.onnx").read_bytes() != (folder / "model.onnx").read_bytes()


def test_an_edited_plan_takes_the_rounding_that_still_fits(digits_run: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = digits_run
    plan = BitPlan.load(folder / "plan.json")
    edited = "blocks.2.mlp.fc1"
    plan.with_weight_bits({edited: 7}).save(tmp_path / "plan.json")
    code, out, err = invoke(
        "convert", folder / "float.onnx", "--plan", tmp_path / "plan.json", "-o", tmp_path / "m.onnx",
        "--weights", folder / "weights.safetensors",
    )  # fmt: skip
    assert code == 0, err
    assert f"rounded to nearest: {edited}" in out


def test_a_plan_written_by_hand(digits_run: tuple[Path, str], test_images: Path, tmp_path: Path) -> None:
    folder, _ = digits_run
    plan = {"layers": {"blocks.0.attn.qkv": {"weight_bits": 5, "activation_bits": 8},
                       "blocks.7.mlp.fc2": {"weight_bits": 1, "activation_bits": 6}}}  # fmt: skip
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    code, _, err = invoke("convert", folder / "float.onnx", "--plan", path, "-o", tmp_path / "m.onnx")
    assert code == 1
    assert "--calibration" in err
    assert not (tmp_path / "m.onnx").exists()
    code, _, err = invoke(
        "convert", folder / "float.onnx", "--plan", path, "-o", tmp_path / "m.onnx", "--calibration", test_images
    )
    assert code == 0, err
    found = {layer.name: layer for layer in inspect_model(load_model(tmp_path / "m.onnx"))}
    assert {n: (f.weight_bits, f.activation_bits) for n, f in found.items()} == {
        "blocks.0.attn.qkv": (5, 8),
        "blocks.7.mlp.fc2": (1, 6),
    }
    # sizes and types, which the plan does not say, are those of the file
    bits = bit_averages(BitPlan.load(path), list(found.values()))
    qkv, fc2 = 32 * 96, 128 * 32
    assert bits.weight_average == bits.weight_average_all == pytest.approx((5 * qkv + fc2) / (qkv + fc2))
    assert bits.weight_average_unweighted == 3
    assert bits.covers == ("qkv", "fc2")


def test_validate_and_its_gates(digits_run: tuple[Path, str], test_images: Path, tmp_path: Path) -> None:
    folder, _ = digits_run
    words = (
        "validate",
        folder / "model.onnx",
        "--validation",
        test_images,
        "--threads",
        "1",
    )  # float.onnx lies beside it
    code, out, err = invoke(*words, "--latency-runs", "2", "--max-drop", "50", "-o", tmp_path / "r.json")
    assert code == 0, err
    report, first = Report.load(tmp_path / "r.json"), Report.load(folder / "report.json")
    assert report.accuracy == first.accuracy
    assert report.bits == first.bits
    assert "agreement" in out
    code, _, err = invoke(*words, "--latency-runs", "2", "--min-agreement", "1", "--max-drop", "-50")
    assert code == 1
    assert "the gate fails: top-1 drop: " in err
    code, _, err = invoke(*words, "--latency-runs", "2", "--gate-agreement", "nan")
    assert code == 2
    assert "must be a finite number from 0 to 1" in err


def test_inspect(digits_run: tuple[Path, str]) -> None:
    folder, _ = digits_run
    code, out, _ = invoke("inspect", folder / "model.onnx", "--json")
    layers = json.loads(out)
    assert code == 0
    assert {layer["name"] for layer in layers} == set(BitPlan.load(folder / "plan.json").layers)
    code, out, _ = invoke("inspect", folder / "model.onnx")
    assert code == 0
    assert "blocks.2.mlp.fc1" in out


def test_schemas_describe_the_files(digits_run: tuple[Path, str]) -> None:
    folder, _ = digits_run
    for name, file in (("plan", "plan.json"), ("report", "report.json"), ("sensitivities", "sensitivity.json")):
        code, out, _ = invoke("schema", name)
        assert code == 0
        jsonschema.validate(json.loads((folder / file).read_text()), json.loads(out))
    published = Path(__file__).parents[2] / "docs" / "plan.schema.json"
    assert json.loads(published.read_text()) == BitPlan.model_json_schema()


def test_two_threads_give_the_bytes_of_one(digits_run: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = digits_run
    out = tmp_path / "out"
    code, _, err = invoke(
        "quantize", "digits", "--bits", "3", "--output", out, "--latency-runs", "1", "--force", *QUICK, "--threads", "2"
    )
    assert code == 0, err
    for name in ("plan.json", "weights.safetensors", "model.onnx", "float.onnx"):
        assert (out / name).read_bytes() == (folder / name).read_bytes(), name


def test_narrow_activations_run_as_planned(digits_run: tuple[Path, str], test_images: Path, tmp_path: Path) -> None:
    folder, _ = digits_run
    plan = BitPlan.load(folder / "plan.json")
    narrow = {n: LayerPlan(**(l.model_dump() | {"activation_bits": 4})) for n, l in plan.layers.items()}  # noqa: E741
    plan.model_copy(update={"layers": narrow}).save(tmp_path / "plan.json")
    code, _, err = invoke("convert", folder / "float.onnx", "--plan", tmp_path / "plan.json", "-o", tmp_path / "m.onnx")
    assert code == 0, err
    code, _, err = invoke(
        "validate", tmp_path / "m.onnx", "--reference", folder / "float.onnx", "--validation", test_images,
        "--threads", "1", "--latency-runs", "1", "-o", tmp_path / "r.json",
    )  # fmt: skip
    assert code == 0, err
    assert Report.load(tmp_path / "r.json").fidelity.layer_max < 1e-3


def test_validate_asks_for_the_float_file_where_it_is_not_beside(
    digits_run: tuple[Path, str], test_images: Path, tmp_path: Path
) -> None:
    shutil.copy(digits_run[0] / "model.onnx", tmp_path)
    code, _, err = invoke("validate", tmp_path / "model.onnx", "--validation", test_images)
    assert code == 2
    assert "there is no float.onnx beside" in err
    assert "--reference FILE" in err


def test_a_float_file_with_external_data(digits_run: tuple[Path, str], tmp_path: Path) -> None:
    import onnx_ir as ir

    folder, _ = digits_run
    ir.save(ir.load(folder / "float.onnx"), tmp_path / "float.onnx", external_data="float.onnx.data")
    assert (tmp_path / "float.onnx.data").exists()
    target = tmp_path / "elsewhere" / "m.onnx"
    code, _, err = invoke(
        "convert", tmp_path / "float.onnx", "--plan", folder / "plan.json", "-o", target,
        "--weights", folder / "weights.safetensors",
    )  # fmt: skip
    assert code == 0, err
    assert not any(t.HasField("data_location") and t.data_location for t in onnx.load(target).graph.initializer)
    x = np.random.default_rng(0).normal(size=(2, 1, 16, 16)).astype(np.float32)
    found, expected = (
        ort.InferenceSession(str(path)).run(None, {"input": x})[0] for path in (target, folder / "model.onnx")
    )
    np.testing.assert_array_equal(found, expected)
