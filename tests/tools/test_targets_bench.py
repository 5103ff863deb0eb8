"""The table of runtimes and targets: what its rows say, on a tiny model."""

from __future__ import annotations

import os
import shutil
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from lampq_onnx.runtime import cpu_flags
from lampq_onnx.runtime.runtimes import runtime_of
from lampq_onnx.targets import RUNNERS, TARGETS, target_for
from tests.trust.case import make_good
from tools.bench.arm64 import run_kit
from tools.bench.targets import __main__ as table
from tools.bench.targets import emulated, engines, with_wasm
from tools.bench.targets.case import Case, given, not_run
from tools.bench.targets.reader import in_one_line


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("targets")
    good = make_good(folder)
    return given(good.float, good.images, good.images, folder, 8)


def test_every_runtime_that_runs_here_has_a_file() -> None:
    assert set(RUNNERS) <= set(table.runtimes())
    for module in table.runtimes().values():
        assert callable(import_module(module).rows)


@pytest.mark.parametrize("name", RUNNERS)
def test_rows_are_exact_and_on_integer_kernels(name: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "openvino":
        pytest.importorskip("openvino", reason="needs lampq-onnx[openvino]")
    monkeypatch.setattr(engines, "TIMED_RUNS", 1)
    monkeypatch.setattr(engines, "FORMS", ((4, 8), (4, 32)))
    rows = list(import_module(table.runtimes()[name]).rows(case))
    words = f"{runtime_of(name).words} {runtime_of(name).version()}"
    assert all(row.runtime.startswith(words) for row in rows)
    here = {t.name for t in TARGETS.values() if t.runner == name}
    assert {row.target for row in rows} == {target for target in here if "arm64" not in target}
    ran = [row for row in rows if row.form]
    assert {row.form for row in ran} == {"W4/A8", "W4/Afloat"}
    for row in ran:
        assert row.loads == "yes"
        assert float(row.worst) < 1e-5
        assert row.integer == ("6 of 6" if row.form == "W4/A8" else "0 of 6")
        assert table.line(row).count("|") == len(table.COLUMNS) + 1
    assert all(row.loads.startswith("not run: this CPU") for row in rows if not row.form)


def test_images_are_ready_for_the_model(case: Case) -> None:
    assert case.images.shape == (8, 3, 4, 4)
    assert case.images.dtype == np.float32
    assert Path(case.float_file).is_file()
    assert table.line(not_run("TVM", "all", "not installed")).startswith("| TVM | all |  | not run: not installed |")


def test_web_assembly_is_exact(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    if "LAMPQ_NODE_MODULES" not in os.environ or shutil.which("node") is None:
        pytest.skip("needs Node, and LAMPQ_NODE_MODULES: a node_modules with onnxruntime-web")
    monkeypatch.setattr(with_wasm, "FILES", (("onnxruntime-arm64", 5, "exact"),))
    monkeypatch.setattr(with_wasm, "TIMED_RUNS", 1)
    (row,) = with_wasm.rows(case)
    assert (row.loads, row.integer) == ("yes", "6 of 6 products")
    assert float(row.worst) < 1e-5


def test_an_emulated_cpu_gives_the_row_of_its_kit(case: Case) -> None:
    target = target_for("auto", "x86_64", cpu_flags())
    with emulated.kit_of(case, target, 5, 8) as kit:
        found = run_kit([sys.executable], kit, "onnxruntime")
        row = emulated.row_of(target, (5, 8), "this CPU", found)
    assert (row.target, row.form, row.loads, row.integer) == (target.name, "W5/A8", "yes", "6 of 6")
    assert row.speed == "exact, never timed"
    next(iter(found["layers"].values()))["error"] = 0.5
    assert emulated.row_of(target, (5, 8), "this CPU", found).loads == "yes, wrong: 1 layers are not exact"
    failed = run_kit([sys.executable, "-c", "raise SystemExit('no | kit')"], case.folder, "onnxruntime")
    assert emulated.row_of(target, (5, 8), "this CPU", failed).loads == "failed: no / kit"


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("Error invoking it\n/tmp/model.mlir:246:12: error: no value\nInvoked with", "no value"),
        ("Unknown DatumType Int4\n\nStack backtrace:\n 0: start", "Unknown DatumType Int4"),
        ("[02:34:19] :220: These Op Not Support: ONNX::BitwiseAnd", "These Op Not Support: ONNX::BitwiseAnd"),
        ("OpenCV(5.0.0) a.cpp:2213: error: (-210:Unsupported format) type", "(-210:Unsupported format) type"),
        ("", "ValueError"),
    ],
)
def test_a_refusal_is_one_line(said: str, wanted: str) -> None:
    assert in_one_line(ValueError(said)) == wanted
