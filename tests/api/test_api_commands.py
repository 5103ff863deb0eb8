"""Functions give what the commands of the same names give, and refuse what they refuse."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import lampq_onnx
from lampq_onnx.cli.main import program
from lampq_onnx.config.keywords import TAKEN
from lampq_onnx.config.lookup import by_flag
from lampq_onnx.config.sections import FIELDS
from lampq_onnx.errors import GateError, LampqError, UsageError
from lampq_onnx.frontend.models.digits import split_images
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.metadata import read_metadata
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.targets import TARGETS
from tests.cli.conftest import invoke
from tests.converter.graphs import as_ir, vit
from tests.frontend.tiny_models import SIZE, images, tiny_vit

PREPROCESSING = lampq_onnx.Preprocessing(
    size=(SIZE, SIZE), crop_pct=1, crop_mode="center", interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3,
    channels=3,
)  # fmt: skip


def done(*words: object) -> str:
    """Standard output of a command that succeeds."""
    code, out, err = invoke(*(word if isinstance(word, Path) else str(word) for word in words))
    assert code == 0, err
    return out


@pytest.fixture
def folder(digits_run: tuple[Path, str]) -> Path:
    return digits_run[0]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels, labels = split_images("test")
    path = tmp_path_factory.mktemp("pictures") / "images.npz"
    np.savez(path, images=pixels[:40], labels=labels[:40])
    return path


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": 3}, ("--bits", "3")),
        ({}, ()),
        (
            {"bits": 5, "metric": "kl", "activation_bits": 6},
            ("--bits", "5", "--metric", "kl", "--activation-bits", "6"),
        ),
        ({"max_bops": "20M", "candidates": "4,8"}, ("--max-bops", "20M", "--candidates", "4,8")),
        ({"bits": 4, "target": "tensorrt", "candidates": (8,)}, ("--target", "tensorrt", "--candidates", "8")),
        ({"bits": 4, "packing": "container"}, ("--bits", "4", "--packing", "container")),
    ],
)
def test_allocate(options: dict[str, object], words: tuple[str, ...], folder: Path, tmp_path: Path) -> None:
    source = folder / "sensitivity.json"
    code, _, err = invoke("allocate", source, *words, "--float", folder / "float.onnx", "-o", tmp_path / "plan.json")
    sensitivities = lampq_onnx.Sensitivities.load(source)
    if code:
        with pytest.raises(LampqError) as caught:
            lampq_onnx.allocate(sensitivities, float_model=folder / "float.onnx", **options)
        assert caught.value.exit_code == code
        assert " ".join(caught.value.message.split()) in " ".join(err.split())
    else:
        plan = lampq_onnx.allocate(sensitivities, float_model=folder / "float.onnx", **options)
        assert plan == lampq_onnx.BitPlan.load(tmp_path / "plan.json")


@pytest.mark.parametrize("target", ["auto", *(name for name, target in TARGETS.items() if target.device == "CPU")])
def test_a_size_that_was_promised_is_kept(target: str, folder: Path, tmp_path: Path) -> None:
    sensitivities = lampq_onnx.Sensitivities.load(folder / "sensitivity.json")
    plan = lampq_onnx.allocate(sensitivities, max_size="180kB", target=target)
    lampq_onnx.convert(folder / "float.onnx", plan, tmp_path / "model.onnx", target=target)
    size = (tmp_path / "model.onnx").stat().st_size
    assert size <= 180_000
    assert plan.promised_bytes is not None
    assert 0.95 * plan.promised_bytes <= size <= plan.promised_bytes


def test_inspect_and_explain(folder: Path) -> None:
    model = folder / "model.onnx"
    layers = [dataclasses.asdict(layer) for layer in lampq_onnx.inspect(model)]
    assert json.loads(json.dumps(layers)) == json.loads(done("inspect", model, "--json"))
    assert len(layers) == len(lampq_onnx.BitPlan.load(folder / "plan.json").layers)
    found = lampq_onnx.explain(str(model), runs=1, batch=2)
    said = json.loads(done("explain", model, "--runs", 1, "--batch", 2, "--json"))
    assert [(layer.name, layer.kernel, layer.reason) for layer in found.layers] == [
        (layer["name"], layer["kernel"], layer["reason"]) for layer in said["layers"]
    ]
    assert (found.batch, found.threads, found.runs) == (2, 1, 1)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"threads": 1.5}, {"runs": True}, {"batch": 10**9}, {"runs": "3"}])
def test_numbers_of_explain_and_probe(wrong: dict[str, int], folder: Path) -> None:
    (name,) = wrong
    with pytest.raises(UsageError, match=f"^{name}: must be a whole number from 1 to"):
        lampq_onnx.explain(folder / "model.onnx", **wrong)
    if name != "runs":
        with pytest.raises(UsageError, match=f"^{name}: must be a whole number from 1 to"):
            lampq_onnx.probe(folder / "float.onnx", **wrong)


def test_probe(tmp_path: Path) -> None:
    onnx.save(vit(linear="matmul"), tmp_path / "float.onnx")
    with pytest.raises(UsageError, match=r"^rounds: must be a whole number from 5 to"):
        lampq_onnx.probe(tmp_path / "float.onnx", rounds=4)
    table = lampq_onnx.probe(tmp_path / "float.onnx", target="onnxruntime-x86-vnni", rounds=5)
    assert {layer.name for layer in table.layers} == {
        graph_layer.name for graph_layer in find_layers(as_ir(vit(linear="matmul")).graph)
    }
    done("probe", tmp_path / "float.onnx", "--target", "onnxruntime-x86-vnni", "--rounds", 5, "-o", tmp_path / "l.json")
    again = lampq_onnx.LatencyTable.load(tmp_path / "l.json")
    assert (again.layers, again.times) == (table.layers, table.times)  # of the cache


def test_validate_writes_what_the_command_writes(folder: Path, pictures: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    for name in ("model.onnx", "float.onnx"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    report = lampq_onnx.validate(
        model, None, pictures, gate_agreement=1, output=tmp_path / "r.json", junit=tmp_path / "r.xml",
        summary=tmp_path / "r.md", latency_runs=1, threads=1,
    )  # fmt: skip
    assert report is not None
    assert report.accuracy.samples == 40
    assert lampq_onnx.Report.load(tmp_path / "r.json") == report
    assert "<testsuites" in (tmp_path / "r.xml").read_text()
    assert (tmp_path / "r.html").is_file()
    words = ("validate", model, "--validation", pictures, "--latency-runs", "1", "--threads", "1")
    done(*words, "-o", tmp_path / "s.json", "--summary", tmp_path / "s.md")
    said = lampq_onnx.Report.load(tmp_path / "s.json")
    assert said.accuracy == report.accuracy
    assert said.layers == report.layers
    with pytest.raises(UsageError, match=r"r\.json exists already"):
        lampq_onnx.validate(model, None, pictures, output=tmp_path / "r.json")
    (tmp_path / "float.onnx").unlink()
    with pytest.raises(UsageError, match=r"there is no float\.onnx beside"):
        lampq_onnx.validate(model, None, pictures)
    with pytest.raises(UsageError, match="needs labelled images"):
        lampq_onnx.validate(folder / "model.onnx")


def test_validate_takes_data_sets_and_batches(folder: Path, tmp_path: Path) -> None:
    pixels, labels = (found[:40] for found in split_images("test"))
    options = {"latency_runs": 1, "threads": 1}
    named = lampq_onnx.validate(folder / "model.onnx", None, "digits", **options)
    pairs = lampq_onnx.validate(
        folder / "model.onnx", None, list(zip(pixels, map(int, labels), strict=True)), **options
    )
    assert named is not None
    assert pairs is not None
    assert (named.accuracy.samples, pairs.accuracy.samples) == (500, 40)
    facts = read_metadata(load_model(folder / "model.onnx"), folder / "model.onnx").preprocessing
    batch = facts.normalize(np.stack([facts.crop(image) for image in pixels]))
    batches = lampq_onnx.validate(folder / "model.onnx", None, [(batch, labels)], **options)
    assert batches is not None
    assert batches.accuracy == pairs.accuracy
    with pytest.raises(LampqError, match="no labels"):
        lampq_onnx.validate(folder / "model.onnx", None, [batch], **options)


def test_compare(folder: Path, tmp_path: Path) -> None:
    found = lampq_onnx.compare(folder, folder / "report.json", tmp_path / "page.html")
    assert "the same size" in found.verdict
    assert found.widths == ()
    assert found.layers == len(lampq_onnx.Report.load(folder / "report.json").layers)
    assert found.verdict in (tmp_path / "page.html").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="exists already"):
        lampq_onnx.compare(folder, folder, tmp_path / "page.html")


def test_report(folder: Path, tmp_path: Path) -> None:
    page = lampq_onnx.report(folder, tmp_path / "page.html")
    done("report", folder, "-o", tmp_path / "other.html")
    assert page == tmp_path / "page.html"
    assert page.read_bytes() == (tmp_path / "other.html").read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        lampq_onnx.report(str(folder), str(page))
    assert lampq_onnx.report(folder, page, overwrite=True) == page
    with pytest.raises(UsageError, match=r"has no report\.json"):
        lampq_onnx.report(tmp_path)


def test_package(folder: Path, tmp_path: Path) -> None:
    packaged = lampq_onnx.package(str(folder / "model.onnx"), "ort", str(tmp_path / "mine"))
    done("package", folder / "model.onnx", "--format", "ort", "-o", tmp_path / "other")
    assert packaged.folder == tmp_path / "mine"
    assert any(name.endswith(".ort") for name in packaged.files)
    for place in ("mine", "other"):
        own = [path for path in (tmp_path / place).rglob("*") if path.is_file()]
        assert {str(path.relative_to(tmp_path / place)) for path in own} == set(packaged.files)
    for name, size in packaged.files.items():
        assert (tmp_path / "mine" / name).stat().st_size == size
    with pytest.raises(UsageError, match="unknown format 'zip'"):
        lampq_onnx.package(folder, "zip", tmp_path / "x")


def test_reproduce(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    answer = lampq_onnx.Reproduction(sha256="0", changes=())
    with monkeypatch.context() as patch:  # tests/cli makes a file again; here: both ways ask for the same
        patch.setattr(
            "lampq_onnx.workflow.reproduce.reproduce", lambda *a, progress, **k: calls.append((a, k)) or answer
        )
        assert (
            lampq_onnx.reproduce("m.onnx", calibration="c", checkpoint="w", source="f.onnx", output="x.onnx") is answer
        )
        done("reproduce", "m.onnx", "--calibration", "c", "--checkpoint", "w", "--model", "f.onnx", "-o", "x.onnx")
    assert calls[0] == calls[1]
    assert calls[0][0][0] == Path("m.onnx")
    with pytest.raises(UsageError, match=r"^device: must be cpu"):
        lampq_onnx.reproduce(folder / "model.onnx", device="abacus")
    with pytest.raises(LampqError, match="does not say how it was made"):
        lampq_onnx.reproduce(folder / "float.onnx")


def test_doctor(tmp_path: Path) -> None:
    found = lampq_onnx.doctor("digits", output=tmp_path)
    assert list(found) == ["environment", "digits"]
    assert {finding.name for finding in found["digits"]} >= {"model", "layers", "export", "accuracy"}
    said = json.loads(done("doctor", "-o", tmp_path, "--json"))
    assert list(said) == ["environment"]
    assert [(finding.name, finding.status) for finding in found["environment"]] == [
        (finding["name"], finding["status"]) for finding in said["environment"]
    ]


def test_doctor_says_what_to_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = lampq_onnx.doctor(output=tmp_path / "file" / "out")
    assert [f.name for f in found["environment"] if f.status == "failure"] == ["disk: output"]
    code, _, err = invoke("doctor", "-o", tmp_path / "file" / "out")
    assert code == GateError.exit_code
    assert "disk: output" in err


def test_recognize(tmp_path: Path) -> None:
    model = tiny_vit()
    found = lampq_onnx.recognize(model, tmp_path / "out", preprocessing=PREPROCESSING, bits=3, threads=1)
    layers = {name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)}
    assert {layer.name for layer in found.layers} == layers
    assert sum(layer.parameters for layer in found.layers) == sum(model.get_submodule(n).weight.numel() for n in layers)
    with pytest.raises(LampqError, match="smallest"):
        lampq_onnx.recognize(model, tmp_path / "out", preprocessing=PREPROCESSING, max_size="1kB", threads=1)
    assert not (tmp_path / "out").exists()


def test_a_module_is_swept(tmp_path: Path) -> None:
    data = images(24)
    loader = DataLoader(TensorDataset(torch.from_numpy(data.images), torch.from_numpy(data.labels)), batch_size=8)
    settings = {
        "preprocessing": PREPROCESSING, "calibration": loader, "validation": loader, "bits": (4, 2), "metrics": ["kl"],
        "rounding": "nearest", "rounds": 0, "equalize": False, "threads": 1, "latency_runs": 1, "effort": "fast",
        "calibration_size": 16,
    }  # fmt: skip
    found = lampq_onnx.sweep(tiny_vit(), tmp_path, pick="min kl", **settings)
    assert [point.name for point in found.points] == ["kl-2", "kl-4"]
    assert found.picked == min(found.points, key=lambda point: point.accuracy.kl).name
    assert found == lampq_onnx.Sweep.load(tmp_path / "sweep.json")
    report = lampq_onnx.Report.load(tmp_path / "report.json")
    assert report.accuracy.samples == 24
    assert report.accuracy == next(point for point in found.points if point.name == found.picked).accuracy
    assert all(point.measured.weight_average <= point.bits for point in found.points)


def test_what_a_sweep_refuses(tmp_path: Path) -> None:
    for wrong, message in (
        ({"bits": [9]}, "budgets from 1 to 8"),
        ({"bits": []}, "budgets from 1 to 8"),
        ({"metrics": ["magic"]}, "unknown metric 'magic'"),
        ({"pick": "best"}, "cannot read 'best'"),
        ({"max_size": "4MB"}, "the option 'max_size' is not for sweep"),
    ):
        with pytest.raises(UsageError, match=message):
            lampq_onnx.sweep("digits", tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


CALLS = {
    "quantize": lambda options: lampq_onnx.quantize("digits", "out", **options),
    "sweep": lambda options: lampq_onnx.sweep("digits", "out", **options),
    "analyze": lambda options: lampq_onnx.analyze("digits", **options),
    "allocate": lambda options: lampq_onnx.allocate(None, **options),
    "convert": lambda options: lampq_onnx.convert("f.onnx", None, "m.onnx", **options),
    "validate": lambda options: lampq_onnx.validate("m.onnx", **options),
    "doctor": lambda options: lampq_onnx.doctor(**options),
}


@pytest.mark.parametrize("function", TAKEN)
def test_options_of_other_functions_are_refused(function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    everything = set().union(*TAKEN.values())
    named = set(inspect.signature(getattr(lampq_onnx, function)).parameters)
    for name in sorted(everything - TAKEN[function] - named):
        with pytest.raises(UsageError, match=f"the option '{name}' is not for {function}") as caught:
            CALLS[function]({name: 1})
        assert all(name in TAKEN[other] for other in caught.value.hint.removeprefix("it is one of ").split(", "))
    with pytest.raises(UsageError, match="unknown option 'bitz'"):
        CALLS[function]({"bitz": 1})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("function", TAKEN)
def test_a_function_takes_the_options_of_its_command(function: str) -> None:
    own = {field.flag for field in FIELDS if field.same_as is None and field.flag != "model"}
    shown = {parameter.name for parameter in program().commands[function].params} & own
    named = set(inspect.signature(getattr(lampq_onnx, function)).parameters)
    taken = {by_flag(name).flag for name in TAKEN[function]} | named & own
    # Gates have the names of budgets on the command line, where each command says what it means.
    assert shown - taken <= {"min_agreement", "gate_agreement"}
    assert taken - shown <= {"min_agreement", "gate_agreement"}


def test_one_option_under_two_names(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is given twice, under two names"):
        lampq_onnx.quantize("digits", tmp_path / "out", baseline=["kl"], baselines=["uniform"])


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^the model is function"):
        lampq_onnx.quantize(lambda x: x, tmp_path / "out", calibration=[], validation=[])
    assert not (tmp_path / "out").exists()
