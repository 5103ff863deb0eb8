"""Tables of a report: their columns and rows."""

from __future__ import annotations

from collections.abc import Sequence

from lampq_onnx.artifacts import Report
from lampq_onnx.artifacts.report import Accuracy, LayerReport
from lampq_onnx.evaluation.gates import GateResult
from lampq_onnx.evaluation.verdict import megabytes
from lampq_onnx.html.words import Head, Line

GATES = (Head("gate", term="gate"), Head("measured"), Head("limit"), Head("result"))
ADVICE = (Head("layer", code=True), Head("now"), Head("change"), Head("effect"))
SECONDS = (Head("stage"), Head("seconds", number=True))
LAYERS = (
    Head("layer", code=True),
    Head("type"),
    Head("weight bits", number=True, term="bits"),
    Head("input bits", number=True),
    Head("storage"),
    Head("bytes", number=True),
    Head("rounding"),
    Head("trace", number=True, term="trace"),
    Head("alpha", number=True),
    Head("omega", number=True, term="omega"),
    Head("error", number=True, term="error"),
)


def gate_rows(gates: Sequence[GateResult]) -> list[Line]:
    """Return a row for each gate."""
    names = {None: "no limit", True: "pass", False: "FAIL"}
    return [Line((gate.name, gate.shown, gate.bound, names[gate.passed])) for gate in gates]


def comparison_heads(metric: str) -> tuple[Head, ...]:
    """Return the columns of the comparison with other allocations."""
    return (
        Head("allocation", term="uniform"),
        Head("bits", number=True, term="bits"),
        Head("MB", number=True),
        Head(metric, number=True),
        Head("drop", number=True, term="drop"),
        Head("agreement", number=True, term="agreement"),
        Head("KL", number=True, term="kl"),
        Head("speed", number=True, term="speed"),
    )


def comparison_rows(report: Report) -> list[Line]:
    """Return a row for this file and for each baseline; empty without baselines."""
    if not report.baselines:
        return []
    metric = report.allocation.metric if report.allocation else "plan"
    own = comparison_row(
        f"{metric} (this file)",
        report.bits.weight_average,
        report.size.quantized_bytes,
        report.accuracy,
        report.latency.speedup,
        own=True,
    )
    others = [
        comparison_row(
            name,
            other.weight_average,
            other.quantized_bytes,
            other.accuracy,
            other.latency.speedup if other.latency else None,
        )
        for name, other in report.baselines.items()
    ]
    return [own, *others]


def comparison_row(
    name: str, bits: float, size: int, accuracy: Accuracy, speed: float | None, *, own: bool = False
) -> Line:
    """Return one row of the comparison."""
    cells = (
        name,
        f"{bits:.3f}",
        megabytes(size),
        f"{100 * accuracy.quantized.top1:.2f} %",
        f"{accuracy.drop_points:.2f} ± {accuracy.standard_error_points:.2f}",
        accuracy.agreement_text,
        accuracy.kl_text,
        "" if speed is None else f"{speed:.2f}x",
    )
    return Line(cells, own)


def layer_table(layers: Sequence[LayerReport]) -> tuple[list[Head], list[Line]]:
    """Return the columns that hold something, and a row for each layer."""
    rows = _layer_rows(layers)
    shown = [place for place, _ in enumerate(LAYERS) if any(row.cells[place] for row in rows)]
    return [LAYERS[place] for place in shown], [
        Line(tuple(row.cells[place] for place in shown), row.own) for row in rows
    ]


def _layer_rows(layers: Sequence[LayerReport]) -> list[Line]:
    return [
        Line(
            (
                layer.name,
                layer.type,
                layer.bits_text,
                str(layer.activation_bits),
                layer.storage,
                f"{layer.bytes:,}",
                layer.rounding or "",
                *(_number(value) for value in (layer.trace, layer.alpha, layer.omega, layer.reconstruction_error)),
            )
        )
        for layer in layers
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
