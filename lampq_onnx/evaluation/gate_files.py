"""Write the gates of a report for pipelines: JUnit XML, and Markdown for a pull request."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from lampq_onnx.artifacts import Report
from lampq_onnx.evaluation.gates import failed_gates, gates_of

SUITE = "lampq-onnx.validate"


def junit(report: Report, file: str) -> str:
    """Return one test case per gate as JUnit XML; gates without a limit are skipped.

    Args:
        report: the report, with the limits that applied.
        file: name of the model's file.
    """
    gates = gates_of(report)
    judged = [gate for gate in gates if gate.passed is not None]
    counts = {
        "tests": str(len(gates)),
        "failures": str(len(failed_gates(gates))),
        "errors": "0",
        "skipped": str(len(gates) - len(judged)),
        "time": f"{sum(report.seconds.values()):.3f}",
    }
    root = ET.Element("testsuites", counts)
    suite = ET.SubElement(root, "testsuite", {"name": SUITE, **counts})
    properties = ET.SubElement(suite, "properties")
    for name, value in (("verdict", _verdict(report)), *_facts(report, file)):
        ET.SubElement(properties, "property", {"name": name, "value": _xml(value)})
    for gate in gates:
        case = ET.SubElement(suite, "testcase", {"classname": SUITE, "name": _xml(gate.name), "time": "0"})
        if gate.passed is None:
            ET.SubElement(case, "skipped", {"message": _xml(f"{gate.shown}; no limit")})
        elif gate.passed:
            ET.SubElement(case, "system-out").text = _xml(f"{gate.shown}; {gate.bound}")
        else:
            failure = ET.SubElement(case, "failure", {"type": "gate", "message": _xml(f"{gate.shown}; {gate.bound}")})
            reasons = [problem.message for problem in report.problems]
            failure.text = _xml("\n".join([f"FAIL {file}: {gate.sentence}", *reasons]))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def markdown(report: Report, file: str) -> str:
    """Return a verdict, the gates and the figures as Markdown, for a comment or a job summary.

    Args:
        report: the report, with the limits that applied.
        file: name of the model's file.
    """
    gates = gates_of(report)
    failed = [gate.name for gate in failed_gates(gates)]
    verdict = f"**FAIL** {_cell(file)}: {_cell(', '.join(failed))}" if failed else f"**PASS** {_cell(file)}"
    lines = [f"### lampq-onnx: {verdict}", "", "| gate | measured | limit | |", "|---|---|---|---|"]
    marks = {None: "no limit", True: "pass", False: "**FAIL**"}
    lines += [f"| {_cell(g.name)} | {_cell(g.shown)} | {_cell(g.bound)} | {marks[g.passed]} |" for g in gates]
    if report.problems:
        lines += ["", *(f"- {_cell(problem.message)}" for problem in report.problems)]
    lines += ["", "| | |", "|---|---|"]
    lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in _facts(report, file)]
    return "\n".join(lines) + "\n"


def _verdict(report: Report) -> str:
    return "FAIL" if failed_gates(gates_of(report)) else "PASS"


def _facts(report: Report, file: str) -> list[tuple[str, str]]:
    accuracy, size, latency = report.accuracy, report.size, report.latency
    low, high = latency.speedup_quartiles
    sqnr = "no error" if accuracy.logit_sqnr_db is None else f"{accuracy.logit_sqnr_db:.1f} dB"
    return [
        ("file", file),
        ("model", report.model),
        ("images", str(accuracy.samples)),
        (accuracy.metric, f"{100 * accuracy.float_.top1:.2f} % -> {100 * accuracy.quantized.top1:.2f} %"),
        ("SQNR of the outputs", sqnr),
        ("KL to float", accuracy.kl_text),
        ("size", f"{size.float_bytes / 1e6:.2f} MB -> {size.quantized_bytes / 1e6:.2f} MB"),
        ("average weight bits", f"{report.bits.weight_average:.3f}"),
        (
            "speed against float",
            f"{latency.speedup:.2f}x ({low:.2f}-{high:.2f}), batch {latency.batch}, {latency.threads} thread(s)",
        ),
        ("processor", report.environment.cpu),
        ("onnxruntime", report.environment.versions.get("onnxruntime", "")),
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _xml(text: str) -> str:
    """Remove control characters, which XML cannot hold."""
    return "".join(c if c in "\t\n" or c.isprintable() else "?" for c in text)
