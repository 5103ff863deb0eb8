"""What exists is not replaced without a word, and what fails or is stopped leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

import lampq_onnx
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.workflow.sweep.earlier import EarlierSweep
from tests.cli.conftest import QUICK, invoke
from tests.prepared import PreparedPython

SAME = ("--bits", "3", "--baseline", "uniform", "--latency-runs", "3", *QUICK)
"""The options of `digits_run`."""


@pytest.fixture
def folder(digits_run: tuple[Path, str], tmp_path: Path) -> Path:
    """A finished result, with a package, a converted file and a note of the user beside it."""
    copy = tmp_path / "out"
    shutil.copytree(digits_run[0], copy)
    return copy


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def said(text: str) -> str:
    return " ".join(text.split())


def with_derived(folder: Path) -> None:
    assert invoke("package", folder, "--format", "ort")[0] == 0
    words = ("convert", folder / "float.onnx", "--plan", folder / "plan.json", "-o", folder / "edited.onnx")
    assert invoke(*words)[0] == 0
    (folder / "notes.txt").write_text("mine")
    (folder / "notes.md").write_text("### of the user")
    (folder / "gates.xml").write_text('<testsuites>\n  <testsuite name="lampq-onnx.validate" tests="5">')
    (folder / "gates.md").write_text("### lampq-onnx: **PASS** model.onnx")
    (folder / "ort" / "mine.txt").write_text("mine")
    shutil.copy(folder / "float.onnx", folder / "own.txt.onnx.bak")


def test_a_finished_run_is_not_done_again(folder: Path) -> None:
    before, times = contents(folder), {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    code, out, err = invoke("quantize", "digits", "-o", folder, *SAME)
    assert code == 0, err
    assert f"done already: {folder} holds the result of this recipe" in said(out)
    assert "export" not in err
    assert contents(folder) == before
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == times


def test_the_task_that_was_found_may_be_said(folder: Path) -> None:
    code, out, err = invoke("quantize", "digits", "-o", folder, *SAME, "--task", "classification")
    assert code == 0, err
    assert "done already" in said(out)


@pytest.mark.parametrize("command", [("quantize",), ("sweep", "--bits", "3")], ids=" ".join)
def test_a_file_is_no_output_folder(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    for output, message in (("there", "there: it is a file"), ("there/below", "there is a file")):
        code, _, err = invoke(command[0], "digits", "-o", tmp_path / output, *command[1:])
        assert code == 2, err
        assert message in said(err)
    assert contents(tmp_path) == {"there": b"mine"}


def test_another_recipe_is_refused_with_both_values_and_nothing_changes(folder: Path) -> None:
    before = contents(folder)
    for words in (("--dry-run",), ()):
        code, _, err = invoke(
            "quantize", "digits", "-o", folder, *SAME, "--bits", "5", "--candidates", "2,4,8", "--rounds", "0", *words
        )
        assert code == 2
        for change in ("--bits 3.0 -> 5.0", "--candidates 2-8 -> 2,4,8", "--rounds 8 -> 0"):
            assert change in said(err)
        assert "--overwrite" in err
        assert "load  " not in err
    with pytest.raises(UsageError, match=r"--bits 3.0 -> 5.0"):
        lampq_onnx.quantize("digits", folder, bits=5, effort="fast", threads=1)
    assert contents(folder) == before


def test_options_that_only_measure_are_measured_again(folder: Path) -> None:
    model = (folder / "model.onnx").read_bytes()
    with_derived(folder)
    derived = contents(folder / "ort")
    code, out, err = invoke("quantize", "digits", "-o", folder, *SAME, "--latency-runs", "2")
    assert code == 0, err
    assert "--latency-runs 3 -> 2" in said(out)
    assert (folder / "model.onnx").read_bytes() == model
    assert Recipe.load(folder / "recipe.toml").output.latency_runs == 2
    assert contents(folder / "ort") == derived
    assert (folder / "edited.onnx").is_file()


def test_overwrite_replaces_the_result_and_what_was_made_from_it(folder: Path) -> None:
    with_derived(folder)
    edited = (folder / "edited.onnx").read_bytes()
    model = (folder / "model.onnx").read_bytes()
    quick = ("--rounding", "nearest", "--rounds", "0", "--no-equalize", "--alpha-samples", "1", "--latency-runs", "1")
    code, out, err = invoke(
        "quantize", "digits", "-o", folder, "--bits", "4", "--calibration-size", "8", *quick, *QUICK, "--overwrite"
    )
    assert code == 0, err
    assert (folder / "model.onnx").read_bytes() != model
    assert Recipe.load(folder / "recipe.toml").allocation.bits == 4
    assert (folder / "edited.onnx.stale").read_bytes() == edited
    assert not (folder / "edited.onnx").exists()
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "notes.md").is_file()
    for name in ("gates.xml", "gates.md"):
        assert not (folder / name).exists()
        assert (folder / f"{name}.stale").is_file()
    assert contents(folder / "ort") == {"mine.txt": b"mine"}
    assert "edited.onnx.stale" in said(out)


def test_files_that_no_run_wrote_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"mine")
    code, _, err = invoke("quantize", "digits", "-o", tmp_path, *SAME)
    assert code == 2
    assert "model.onnx, which no finished run wrote" in said(err)
    assert contents(tmp_path) == {"model.onnx": b"mine"}


def test_other_weights_under_the_same_recipe_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lampq_onnx.workflow.provenance import Inputs

    real = Inputs.changes
    monkeypatch.setattr(
        Inputs, "changes", lambda self, other: real(self.model_copy(update={"weights_sha256": "other"}), other)
    )
    before = contents(folder)
    code, _, err = invoke("quantize", "digits", "-o", folder, *SAME)
    assert code == 2
    assert "the weights of the model" in said(err)
    assert contents(folder) == before


@pytest.mark.parametrize(
    "words",
    [
        ("analyze", "digits", "-o", "there.json"),
        ("analyze", "digits", "-o", "new.json", "--float", "there.onnx"),
        ("allocate", "sensitivity.json", "-o", "there.json"),
        ("convert", "float.onnx", "--plan", "plan.json", "-o", "there.onnx"),
        ("probe", "float.onnx", "-o", "there.json"),
        ("package", "model.onnx", "--format", "ort", "-o", "there"),
        ("package", "model.onnx", "--format", "ort", "-o", "there.json"),
        ("init", "there.json"),
        ("reproduce", "model.onnx", "-o", "there.onnx"),
        ("validate", "model.onnx", "--validation", "x.npz", "-o", "there.json"),
        ("validate", "model.onnx", "--validation", "x.npz", "-o", "there2.json"),
        ("validate", "model.onnx", "--validation", "x.npz", "--junit", "there.json"),
        ("validate", "model.onnx", "--validation", "x.npz", "--summary", "there.json"),
        ("report", ".", "-o", "there.json"),
        ("sweep", "digits", "-o", "swept", "--bits", "3"),
        ("quantize", "digits", "-o", "swept"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_every_command_refuses_what_exists_in_the_same_way(
    words: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for name in ("there.json", "there.onnx", "there2.html"):
        Path(name).write_text("mine")
    Path("there").mkdir()
    Path("there", "mine.txt").write_text("mine")
    Path("swept").mkdir()
    for name in ("sweep.json", "sweep.html", "model.onnx"):
        Path("swept", name).write_text("{}" if name == "sweep.json" else "mine")
    before = contents(folder)
    code, out, err = invoke(*words)
    assert contents(folder) == before
    assert code == (1 if words[0] == "sweep" else 2), err  # that sweep.json cannot be read
    assert err.count("error:") == 1
    assert "Traceback" not in out + err
    assert "load  " not in err
    if words[0] != "sweep":
        assert "exists already" in said(err) or "no finished run wrote" in said(err)


def test_overwrite_lets_commands_replace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for words in (
        ("allocate", "sensitivity.json", "--bits", "5", "-o", "there.json"),
        ("convert", "float.onnx", "--plan", "plan.json", "-o", "there.onnx"),
        ("package", "model.onnx", "--format", "ort", "-o", "packed"),
        ("init", "there.toml"),
    ):
        assert invoke(*words)[0] == 0
        code, _, err = invoke(*words)
        assert (code, "exists already" in said(err)) == (2, True)
        assert invoke(*words, "--overwrite")[0] == 0
    (folder / "packed" / "mine.txt").write_text("mine")
    before = contents(folder / "packed")
    code, _, err = invoke("package", "model.onnx", "--format", "ort", "-o", "packed", "--overwrite")
    assert code == 2
    assert "mine.txt was added" in said(err)
    assert contents(folder / "packed") == before


def test_python_does_not_replace_either(folder: Path) -> None:
    plan = lampq_onnx.BitPlan.load(folder / "plan.json")
    (folder / "there.onnx").write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists already"):
        lampq_onnx.convert(folder / "float.onnx", plan, folder / "there.onnx")
    with pytest.raises(UsageError, match="exists already"):
        lampq_onnx.analyze("digits", float_output=folder / "there.onnx")
    assert (folder / "there.onnx").read_bytes() == b"mine"
    lampq_onnx.convert(folder / "float.onnx", plan, folder / "there.onnx", overwrite=True)
    assert (folder / "there.onnx").read_bytes() != b"mine"


def test_a_plan_without_a_quantized_layer_is_refused(folder: Path) -> None:
    plan = lampq_onnx.BitPlan.load(folder / "plan.json")
    layers = {
        name: layer.model_copy(update={"weight_bits": 32, "activation_bits": 32}) for name, layer in plan.layers.items()
    }
    with pytest.raises(LampqError, match="leaves all of its 34 layers in float"):
        lampq_onnx.convert(folder / "float.onnx", plan.model_copy(update={"layers": layers}), folder / "x.onnx")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--max-size", "50kB"), "The smallest possible file is"),
        (("--max-size", "50kB", "--dry-run"), "The smallest possible file is"),
    ],
)
def test_budgets_are_refused_before_anything_is_measured(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    out = tmp_path / "a" / "b" / "out"
    code, _, err = invoke("quantize", "digits", "-o", out, *words, *QUICK)
    assert code == 1
    assert message in said(err)
    assert "cannot be quantized" in said(err)
    assert "sensitivities" not in err
    assert not (tmp_path / "a").exists()


def test_a_full_disk_is_seen_before_anything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=300_000))
    for words in (("--dry-run",), ()):
        code, _, err = invoke("quantize", "digits", "-o", tmp_path / "a" / "out", *QUICK, *words)
        assert code == 1
        assert "0.300 MB free, and the result of digits needs about 0." in said(err)
        assert "export" not in err or "sensitivities" not in err
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_nothing(tmp_path: Path, prepared: PreparedPython) -> None:
    out = tmp_path / "a" / "b" / "out"
    words = ["quantize", "digits", "--bits", "3", "-o", str(out), "--effort", "balanced", "--threads", "1", "-v"]
    process = subprocess.Popen(
        [*prepared.command, "-m", "lampq_onnx", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "LAMPQ_ONNX_CACHE": str(tmp_path / "cache")},
    )
    assert process.stderr is not None
    line = ""
    while "exporting" not in line:
        line = process.stderr.readline()
        assert line, "it ended before it could be stopped"
    assert out.is_dir()
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == 130
    assert rest.count("error:") == 1
    assert rest.strip().splitlines()[-1] == (
        "error: interrupted; finished stages are kept, and the same command goes on from there"
    )
    assert "Traceback" not in rest
    assert not (tmp_path / "a").exists()


def test_a_sweep_of_another_recipe_is_refused(tmp_path: Path) -> None:
    words = ("sweep", "digits", "-o", tmp_path / "s", "--bits", "3", "--metrics", "kl", "--rounding", "nearest",
             "--rounds", "0", "--no-equalize", "--latency-runs", "1", "--calibration-size", "8", *QUICK)  # fmt: skip
    assert invoke(*words, "--pick", "min kl")[0] == 0
    (tmp_path / "s" / "notes.txt").write_text("mine")
    assert invoke("package", tmp_path / "s", "--format", "ort")[0] == 0
    before = contents(tmp_path / "s")
    code, _, err = invoke(*words, "--fixed-bits", "7")
    assert code == 2
    assert "--fixed-bits 8 -> 7" in said(err)
    assert "load  " not in err
    assert contents(tmp_path / "s") == before
    assert invoke(*words)[0] == 0  # the pick stays
    assert contents(tmp_path / "s")["model.onnx"] == before["model.onnx"]
    assert EarlierSweep(tmp_path / "s", overwrite=False, own=()).picked == "kl-3"
    code, _, err = invoke(*words, "--fixed-bits", "7", "--overwrite")
    assert code == 0, err
    after = contents(tmp_path / "s")
    assert after["model.onnx.stale"] == before["model.onnx"]
    assert "model.onnx" not in after
    assert not (tmp_path / "s" / "ort").exists()
    assert after["notes.txt"] == b"mine"
