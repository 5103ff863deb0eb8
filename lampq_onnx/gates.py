"""The gates of `validate` as files that pipelines read: JUnit XML, and Markdown for a pull request."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree as ET

from lampq_onnx.artifacts import Report
from lampq_onnx.validation import EXCESS_BOUND, EXCESS_IMAGES, LAYER_BOUND

SUITE = "lampq-onnx.validate"


@dataclass(frozen=True)
class Gate:
    """One bound.

    Attributes:
        name: what is bounded.
        value, bound: as they are shown; an empty bound was not asked for.
        passed: None where there is no bound.
    """

    name: str
    value: str
    bound: str
    passed: bool | None


def gates_of(report: Report, *, max_drop: float | None = None, min_agreement: float | None = None) -> list[Gate]:
    """Every figure that can fail, whether or not a bound is asked for; the same rules as `apply_gates`."""
    accuracy, fidelity = report.accuracy, report.fidelity
    counts = fidelity.samples >= EXCESS_IMAGES
    return [
        Gate(
            "top-1 drop",
            f"{accuracy.drop_points:.2f} ± {accuracy.standard_error_points:.2f} points",
            "" if max_drop is None else f"at most {max_drop:g}",
            None if max_drop is None else accuracy.drop_points <= max_drop,
        ),
        Gate(
            "agreement with float",
            accuracy.agreement_text,
            "" if min_agreement is None else f"at least {100 * min_agreement:g} %",
            None if min_agreement is None else accuracy.agreement >= min_agreement,
        ),
        Gate(
            "layers as written",
            f"relative error {fidelity.layer_max:.1e}" + (f" ({fidelity.layer_worst})" if fidelity.layer_worst else ""),
            f"at most {LAYER_BOUND:.0e}",
            fidelity.layer_max <= LAYER_BOUND,
        ),
        Gate(
            "model as written",
            f"{100 * fidelity.excess_error:+.1f} % error from kernels (n = {fidelity.samples})",
            f"at most {100 * EXCESS_BOUND:g} %" if counts else "",
            fidelity.excess_error <= EXCESS_BOUND if counts else None,
        ),
    ]


def junit(report: Report, gates: list[Gate], file: str) -> str:
    """One test case a gate; those without a bound are skipped.

    Args:
        file: name of the model's file.
    """
    judged = [gate for gate in gates if gate.passed is not None]
    counts = {
        "tests": str(len(gates)),
        "failures": str(sum(not gate.passed for gate in judged)),
        "errors": "0",
        "skipped": str(len(gates) - len(judged)),
        "time": f"{sum(report.seconds.values()):.3f}",
    }
    root = ET.Element("testsuites", counts)
    suite = ET.SubElement(root, "testsuite", {"name": SUITE, **counts})
    properties = ET.SubElement(suite, "properties")
    for name, value in _facts(report, file):
        ET.SubElement(properties, "property", {"name": name, "value": value})
    for gate in gates:
        case = ET.SubElement(suite, "testcase", {"classname": SUITE, "name": gate.name, "time": "0"})
        if gate.passed is None:
            ET.SubElement(case, "skipped", {"message": f"{gate.value}; no bound"})
        elif gate.passed:
            ET.SubElement(case, "system-out").text = f"{gate.value}; {gate.bound}"
        else:
            failure = ET.SubElement(case, "failure", {"type": "gate", "message": f"{gate.value}; {gate.bound}"})
            failure.text = f"{gate.name} of {file}: {gate.value}, and {gate.bound} is asked for"
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def markdown(report: Report, gates: list[Gate], file: str) -> str:
    """A verdict, the gates and the figures, for a comment or a job summary."""
    failed = [gate.name for gate in gates if gate.passed is False]
    verdict = f"**{file} fails: {', '.join(failed)}**" if failed else f"**{file} passes**"
    lines = [f"### lampq-onnx: {verdict}", "", "| | measured | bound | |", "|---|---|---|---|"]
    marks = {None: "", True: "ok", False: "**fails**"}
    lines += [f"| {_cell(g.name)} | {_cell(g.value)} | {_cell(g.bound)} | {marks[g.passed]} |" for g in gates]
    lines += ["", "| | |", "|---|---|"]
    lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in _facts(report, file)]
    return "\n".join(lines) + "\n"


def _facts(report: Report, file: str) -> list[tuple[str, str]]:
    accuracy, size, latency = report.accuracy, report.size, report.latency
    low, high = latency.speedup_quartiles
    sqnr = "no error" if accuracy.logit_sqnr_db is None else f"{accuracy.logit_sqnr_db:.1f} dB"
    return [
        ("file", file),
        ("model", report.model),
        ("images", str(accuracy.samples)),
        ("top-1", f"{100 * accuracy.float_.top1:.2f} % -> {100 * accuracy.quantized.top1:.2f} %"),
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
