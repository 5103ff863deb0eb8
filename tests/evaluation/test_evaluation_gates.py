"""One rule for all: what the exit code, JUnit, Markdown, the page and the terminal say of a report."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from lampq_onnx.artifacts import Report
from lampq_onnx.artifacts.gates import GateLimits, Problem
from lampq_onnx.cli.result import print_result
from lampq_onnx.errors import GateError
from lampq_onnx.evaluation.gate_files import junit, markdown
from lampq_onnx.evaluation.gates import failed_gates, gates_of, require_gates, verdict_line
from lampq_onnx.html import report_page
from tests.cli.conftest import invoke
from tests.html.reports import accuracy, report

GATES = ["top-1 drop", "agreement with float", "finite answers", "layers as written", "model as written"]

WRONG: dict[str, tuple[dict[str, object], set[str]]] = {
    "nothing": ({}, set()),
    "drop": ({"limits": {"max_drop": 0.99}}, {"top-1 drop"}),
    "drop kept": ({"limits": {"max_drop": 1.0, "min_agreement": 0.97}}, set()),
    "agreement": ({"limits": {"min_agreement": 0.971}}, {"agreement with float"}),
    "both": ({"limits": {"max_drop": -1.0, "min_agreement": 1.0}}, {"top-1 drop", "agreement with float"}),
    "broken answers": ({"accuracy": {"broken": 3}}, {"finite answers"}),
    "a layer": ({"fidelity": {"layer_max": 0.1, "layer_worst": "a|b<c>&"}}, {"layers as written"}),
    "a layer with NaN": ({"fidelity": {"layer_max": None, "layer_worst": "fc"}}, {"layers as written"}),
    "kernels": ({"fidelity": {"excess_error": 0.3}}, {"model as written"}),
    "kernels, few images": ({"fidelity": {"excess_error": 0.3, "samples": 63}}, set()),
    "kernels, no number": ({"fidelity": {"excess_error": None}}, {"model as written"}),
    "a problem alone": ({"problems": ("not-finite",)}, {"finite answers"}),
    "problems": (
        {"problems": ("layer-differs", "kernels-add-error"), "limits": {"max_drop": 0.0}},
        {"layers as written", "model as written", "top-1 drop"},
    ),
}


def made(
    limits: dict[str, float] | None = None, problems: tuple[str, ...] = (), **changes: dict[str, object]
) -> Report:
    """A report with some figures changed."""
    known = report(model="tiny", notes=("a note",), accuracy=accuracy(drop=1.0))
    return known.model_copy(
        update={
            **{part: getattr(known, part).model_copy(update=values) for part, values in changes.items()},
            "limits": GateLimits(**(limits or {})),
            "problems": tuple(Problem(code=code, message=f"{code} & <more>") for code in problems),
        }
    )


def test_layers_that_nobody_compared_do_not_pass() -> None:
    found = made(fidelity={"layer_max": 0.0, "layer_worst": None})
    gate = next(gate for gate in gates_of(found) if gate.name == "layers as written")
    assert (gate.passed, gate.limit, gate.shown) == (None, None, "no layer was compared")
    assert "layers as written" not in verdict_line(gates_of(found))


@pytest.mark.parametrize("name", WRONG)
def test_all_renderings_say_the_same(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes, wanted = WRONG[name]
    found = made(**changes)
    gates = gates_of(found)
    assert [gate.name for gate in gates] == GATES
    assert {gate.name for gate in failed_gates(gates)} == wanted
    word = "FAIL" if wanted else "PASS"

    if wanted:
        with pytest.raises(GateError) as raised:
            require_gates(found)
        assert raised.value.exit_code == 1
        assert all(gate in raised.value.message for gate in wanted)
        assert all(problem.message in raised.value.message for problem in found.problems)
    else:
        require_gates(found)

    suite = ET.fromstring(junit(found, "m&<\x0b.onnx").encode()).find("testsuite")
    assert suite is not None
    failed = {case.get("name") for case in suite.findall("testcase") if case.find("failure") is not None}
    assert failed == wanted
    assert suite.get("failures") == str(len(wanted))
    assert suite.get("skipped") == str(len(suite.findall("testcase/skipped")))
    assert {p.get("name"): p.get("value") for p in suite.iter("property")}["verdict"] == word

    text = markdown(found, "m.onnx")
    assert text.startswith(f"### lampq-onnx: **{word}** m.onnx")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {row.removeprefix("| ").split(" |")[0] for row in rows if "**FAIL**" in row} == wanted
    assert {row.replace("\\|", "").count("|") for row in rows} <= {3, 5}

    page = report_page(found, files=["report.json"])
    body = page[page.index("<body>") :]
    first = re.search(r"<(?:p|h\d|div|table)[^>]*>([^<]*)", body)
    assert first is not None
    assert first.group(1).startswith(f"{word}: ")
    assert all(gate in first.group(1) for gate in wanted)
    assert f"<title>{word} tiny" in page
    assert body.count(">FAIL</td>") == len(wanted)

    print_result(found)
    last = capsys.readouterr().out.replace("\n", " ")
    assert f"{word}: " in last
    assert all(gate in last.rpartition(f"{word}: ")[2] for gate in wanted)

    # From the file again: the limits travel with the report.
    found.save(tmp_path / "report.json")
    code, _, err = invoke("report", tmp_path)
    assert code == 0, err
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page


def test_a_figure_has_the_name_and_the_layer_of_its_task() -> None:
    found = made(accuracy={"metric": "AP"}, limits={"max_drop": 0.5})
    drop = gates_of(found)[0]
    assert (drop.name, drop.metric, drop.unit, drop.measured, drop.limit) == ("AP drop", "AP", "points", 1.0, 0.5)
    for text in (junit(found, "m.onnx"), markdown(found, "m.onnx"), report_page(found), verdict_line(gates_of(found))):
        assert "AP drop" in text
        assert "top-1" not in text.replace("top-1 accuracy", "")


def test_limits_given_beside_a_report_are_used_instead_of_its_own() -> None:
    found = made(limits={"max_drop": 5.0})
    require_gates(found)
    with pytest.raises(GateError, match="top-1 drop"):
        require_gates(found, GateLimits(max_drop=0.1))


def test_the_wording_of_notes_decides_nothing() -> None:
    notes = ("onnxruntime computes layer x with an error", "FAIL: agreement with float")
    assert not failed_gates(gates_of(made().model_copy(update={"notes": notes})))


def test_reports_of_earlier_versions_load(tmp_path: Path) -> None:
    data = json.loads(made(fidelity={"layer_max": 0.2, "layer_worst": "fc"}).to_json())
    for key in ("limits", "problems", "model_sha256"):
        del data[key]
    del data["accuracy"]["broken"]
    (tmp_path / "report.json").write_text(json.dumps(data), encoding="utf-8")
    old = Report.load(tmp_path / "report.json")
    assert (old.limits, old.problems, old.accuracy.broken) == (GateLimits(), (), 0)
    # What is wrong with the file is known from its figures.
    assert [gate.name for gate in failed_gates(gates_of(old))] == ["layers as written"]
    assert "FAIL: layers as written" in report_page(old)


@pytest.mark.parametrize(("drop", "agreement"), list(itertools.product([None, 0.5, 1.0, 1.5], [None, 0.5, 0.97, 0.99])))
def test_limits_are_kept_at_the_limit_itself(drop: float | None, agreement: float | None) -> None:
    gates = gates_of(made(limits={"max_drop": drop, "min_agreement": agreement}))
    assert gates[0].passed == (None if drop is None else drop >= 1.0)
    assert gates[1].passed == (None if agreement is None else agreement <= 0.97)
    assert (gates[0].bound, gates[1].bound) == (
        "" if drop is None else f"at most {drop:g} points",
        "" if agreement is None else f"at least {100 * agreement:g} %",
    )
