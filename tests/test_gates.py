"""What a pipeline reads of a validation."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from lampq_onnx.artifacts import Report
from lampq_onnx.errors import GateError
from lampq_onnx.gates import gates_of, junit, markdown
from lampq_onnx.validation import apply_gates

from .tools.test_accuracy_table import report


def changed(**fidelity: object) -> Report:
    found = report()
    return found.model_copy(update={"fidelity": found.fidelity.model_copy(update=fidelity)})


@pytest.mark.parametrize("max_drop", [None, 0.4, 0.5, 1.0])
@pytest.mark.parametrize("min_agreement", [None, 0.5, 0.999])
@pytest.mark.parametrize(
    "fidelity", [{}, {"layer_max": 0.1, "layer_worst": "a|b"}, {"excess_error": 0.3, "samples": 64}]
)
def test_gates_fail_where_the_exit_code_says_so(
    max_drop: float | None, min_agreement: float | None, fidelity: dict[str, object]
) -> None:
    found = changed(**fidelity)
    gates = gates_of(found, max_drop=max_drop, min_agreement=min_agreement)
    failed = sum(gate.passed is False for gate in gates)
    try:
        apply_gates(found, max_drop=max_drop, min_agreement=min_agreement)
    except GateError:
        assert failed
    else:
        assert not failed
    root = ET.fromstring(junit(found, gates, "m&<.onnx").encode())
    suite = root.find("testsuite")
    assert suite is not None
    assert suite.get("tests") == "4" == str(len(suite.findall("testcase")))
    assert suite.get("failures") == str(failed) == str(len(suite.findall("testcase/failure")))
    assert suite.get("skipped") == str(len(suite.findall("testcase/skipped")))
    assert {p.get("name"): p.get("value") for p in suite.iter("property")}["file"] == "m&<.onnx"
    text = markdown(found, gates, "m.onnx")
    assert text.count("**fails**") == failed
    assert ("passes" in text) == (not failed)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {row.replace("\\|", "").count("|") for row in rows} <= {3, 5}
