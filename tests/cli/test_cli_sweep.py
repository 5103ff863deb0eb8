"""A sweep of the embedded model: its points, their reuse, and a pick."""

from __future__ import annotations

import json
from pathlib import Path

from lampq_onnx import BitPlan, Report
from lampq_onnx.artifacts.sweep import Sweep
from lampq_onnx.evaluation.gates import gates_of
from tests.cli.conftest import QUICK, invoke


def test_points_are_kept_and_picked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("sweep", "digits", "--output", out, "--metrics", "kl", "--rounding", "nearest", "--rounds", "0",
             "--no-equalize", "--latency-runs", "2", *QUICK)  # fmt: skip
    code, _, err = invoke(*words, "--bits", "2,4")
    assert code == 0, err
    assert {path.name for path in out.iterdir()} == {"points", "sweep.json", "sweep.csv", "sweep.html"}
    found = Sweep.load(out / "sweep.json")
    assert [point.name for point in found.points] == ["kl-2", "kl-4"]
    assert found.points[1].accuracy.kl < found.points[0].accuracy.kl
    (root,) = (out / "points").iterdir()
    # one point is lost, as if the run had been stopped: only that one is made again
    kept = (root / "kl-2" / "model.onnx").stat()
    before = json.loads((root / "kl-4" / "point.json").read_text())["measured"]["accuracy"]
    for path in (root / "kl-4").iterdir():
        path.unlink()
    (root / "kl-4").rmdir()
    code, shown, err = invoke(*words, "--bits", "2,4", "--pick", "min kl")
    assert code == 0, err
    assert "picked kl-4" in shown
    assert (root / "kl-2" / "model.onnx").stat() == kept
    assert [path.name for path in (out / "points").iterdir()] == [root.name]
    assert json.loads((root / "kl-4" / "point.json").read_text())["measured"]["accuracy"] == before
    # the picked files are those of the point, with a report that was measured on them
    assert (out / "model.onnx").read_bytes() == (root / "kl-4" / "model.onnx").read_bytes()
    report = Report.load(out / "report.json")
    assert report.bits.weight_average == BitPlan.load(out / "plan.json").weight_average()
    assert report.accuracy == found.points[1].accuracy
    assert report.details is not None
    assert (out / "report.html").is_file()
    # a pick that fails the gate is written all the same, and says so
    assert [gate.passed for gate in gates_of(report) if gate.name == "agreement with float"] == [True]
    code, shown, err = invoke(*words, "--bits", "2,4", "--pick", "min size", "--gate-agreement", "1")
    assert code == 1
    assert "the gate fails: agreement with float" in err
    assert Report.load(out / "report.json").limits.min_agreement == 1
    assert 'id="gate">FAIL: agreement with float' in (out / "report.html").read_text(encoding="utf-8")
