"""Every user error is one message, an exit code, and nothing written."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from PIL import Image

from lampq_onnx.frontend.models.digits import digits_folder
from tests.cli.conftest import QUICK, invoke
from tests.prepared import PreparedPython


def assert_refused(result: tuple[int, str, str], folder: Path, *words: str, code: int = 1) -> None:
    got, out, err = result
    assert got == code, err
    for word in words:
        assert word in err, err
    assert "Traceback" not in out + err
    assert "internal error" not in err
    assert not folder.exists() or not list(folder.iterdir())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


IMAGES = ("--calibration", "noise", "--validation", "unread")
"""Named, and not opened before the model is loaded."""


def vit(checkpoint: Path) -> list[str]:
    arguments = "img_size=16 patch_size=4 in_chans=1 num_classes=10"
    words = ["quantize", "vit_tiny_patch16_224", "--checkpoint", str(checkpoint), *IMAGES]
    for argument in arguments.split():
        words += ["--model-arg", argument]
    return words


def test_checkpoints(tmp_path: Path, out: Path) -> None:
    assert_refused(invoke(*vit(tmp_path / "gone.safetensors"), "--output", out), out, "no such checkpoint", "gone")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((digits_folder() / "model.safetensors").read_bytes()[:5000])
    assert_refused(invoke(*vit(cut), "--output", out), out, "cut.safetensors cannot be read")
    other = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"conv1.weight": __import__("torch").zeros(3)}, other)
    assert_refused(invoke(*vit(other), "--output", out), out, "does not fit", "missing", "unknown")
    whole = digits_folder() / "model.safetensors"
    assert_refused(invoke(*vit(whole), "--output", out), out, "does not fit", "embed_dim=")


def test_unknown_model_and_usage(out: Path) -> None:
    assert_refused(
        invoke("quantize", "deit_tiny_patch16_22", "--checkpoint", "x.pth", *IMAGES, "--output", out),
        out,
        "deit_tiny_patch16_224",
    )
    assert_refused(invoke("quantize", "deit_tiny_patch16_224", *IMAGES, "--output", out), out, "--checkpoint", code=2)
    words = ("quantize", "deit_tiny_patch16_224", "--pretrained", "--output", out)
    assert_refused(invoke(*words), out, "--validation", "--calibration", code=2)
    assert "load" not in invoke(*words)[2]
    assert invoke("quantize", "digits")[0] == 2
    assert invoke("nonsense")[0] == 2
    assert invoke("quantize", "digits", "--nonsense", "--output", out)[0] == 2


@pytest.mark.parametrize("bits", ["9", "0", "-3", "nan"])
def test_bits_out_of_range(out: Path, bits: str) -> None:
    assert_refused(invoke("quantize", "digits", "--bits", bits, "--output", out), out, "bits", code=2)


def test_other_values_out_of_range(out: Path) -> None:
    cases = {
        ("--activation-bits", "9"): "--activation-bits",
        ("--effort", "heroic"): "--effort",
        ("--candidates", "2-9"): "candidate",
        ("--gamma", "1"): "gamma",
        ("--gamma", "1e200"): "gamma",
        ("--seed", "99999999999999999999999"): "seed",
        ("--metric", "magic"): "metric",
        ("--packing", "zip"): "--packing",
        ("--target", "abacus"): "target",
        ("--baseline", "magic"): "metric",
        ("--mean", "a,b"): "--mean",
        ("--std", "0"): "std",
        ("--crop", "2"): "crop",
        ("--device", "abacus"): "device",
        ("--model-arg", "novalue"): "--model-arg",
        ("--labels", "guessed"): "--labels",
    }
    for words, expected in cases.items():
        assert_refused(invoke("quantize", "digits", *words, "--output", out), out, expected, code=2)


def test_an_infeasible_budget_names_the_smallest_feasible_one(out: Path) -> None:
    result = invoke("quantize", "digits", "--bits", "2.5", "--candidates", "3-8", "--output", out)
    assert_refused(result, out, "2.5", "3")


def test_images(tmp_path: Path, out: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = tmp_path / "broken"
    (broken).mkdir()
    (broken / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"junk" * 20)
    few = tmp_path / "few"
    for name in ("cat", "dog"):
        (few / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(few / name / "1.png")
    table = tmp_path / "table"
    table.mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(table / "1.png")
    (table / "labels.csv").write_text("path,label\n1.png,10\n")
    short = tmp_path / "short.npz"
    np.savez(short, images=np.zeros((4, 8, 8), np.uint8), labels=np.zeros(3, np.int64))
    cases: list[tuple[str, Path, tuple[str, ...]]] = [
        ("--calibration", empty, ("empty",)),
        ("--calibration", broken, ("a.png",)),
        ("--validation", few, ("2", "10", "labels.csv")),
        ("--validation", table, ("labels.csv", "10")),
        ("--validation", short, ("4 images and 3 labels",)),
        ("--validation", tmp_path / "gone", ("gone",)),
    ]
    for option, path, said in cases:
        result = invoke("quantize", "digits", "-v", option, path, "--output", out, *QUICK)
        assert_refused(result, out, *said)
        assert "loading the model" in result[2]
        assert "exporting" not in result[2]  # the first stage that takes its time


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere; the next test covers its case")
def test_a_read_only_folder(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    code, _, err = invoke("quantize", "digits", "--output", locked)
    assert code == 1
    assert "cannot write" in err


def test_an_output_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    code, _, err = invoke("quantize", "digits", "--output", tmp_path / "file" / "out")
    assert code == 2
    assert "cannot write to the output folder" in err
    assert (tmp_path / "file").read_text() == "kept"


def test_a_failed_run_leaves_the_last_result_alone(digits_run: tuple[Path, str], tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "kept"
    shutil.copytree(digits_run[0], folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    broken = tmp_path / "broken"
    broken.mkdir()
    for i in range(20):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(broken / f"{i}.png")
    (broken / "labels.csv").write_text("path,label\n" + "".join(f"{i}.png,{i % 10}\n" for i in range(20)))
    (broken / "13.png").write_bytes(b"")
    code, _, err = invoke(
        "quantize", "digits", "--validation", broken, "--rounds", "0", "--no-equalize", "--rounding", "nearest",
        "--output", folder, "--overwrite", *QUICK,
    )  # fmt: skip
    assert code == 1
    assert "13.png" in err
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_artifacts_of_the_wrong_kind(digits_run: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = digits_run
    target = tmp_path / "x"
    cases = [
        ("allocate", folder / "plan.json"),
        ("allocate", tmp_path / "gone.json"),
        ("convert", folder / "float.onnx", "--plan", folder / "report.json"),
        ("convert", folder / "plan.json", "--plan", folder / "plan.json"),
        ("convert", folder / "model.onnx", "--plan", folder / "plan.json"),
        ("inspect", folder / "plan.json"),
    ]
    for words in cases:
        extra = () if words[0] == "inspect" else ("-o", target)
        code, out, err = invoke(*words, *extra)
        assert code == 1, (words, err)
        assert "Traceback" not in out + err
        assert "internal error" not in err, err
        assert not target.exists()


def test_debug_shows_the_traceback(prepared: PreparedPython) -> None:
    words = [*prepared.command, "-m", "lampq_onnx", "inspect", "gone.onnx"]
    plain = subprocess.run(words, capture_output=True, text=True, check=False)
    debug = subprocess.run([*words, "--debug"], capture_output=True, text=True, check=False)
    assert plain.returncode == debug.returncode == 1
    assert "Traceback" not in plain.stderr
    assert "no such ONNX file: gone.onnx" in plain.stderr
    assert "Traceback" in debug.stderr


def test_folders_in_the_place_of_files_and_names_like_markup(digits_run: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = digits_run
    code, out, err = invoke("allocate", folder / "sensitivity.json", "-o", tmp_path)
    assert code == 2
    assert "a folder has that name" in err
    target = tmp_path / "[red]p.json"
    code, out, err = invoke("allocate", folder / "sensitivity.json", "-o", target)
    assert code == 0, err
    assert target.exists()
    assert "[red]p.json" in out.replace("\n", "")
