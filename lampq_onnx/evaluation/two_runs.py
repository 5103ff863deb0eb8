"""Two results of the same model side by side: figures, widths and answers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lampq_onnx.artifacts import Report
from lampq_onnx.artifacts.details import ChangedImage
from lampq_onnx.errors import UsageError
from lampq_onnx.evaluation.verdict import megabytes


@dataclass(frozen=True)
class Figure:
    """One figure of both runs, as text.

    Attributes:
        name: what it is.
        first: its value in the first run; empty: not measured.
        second: likewise.
    """

    name: str
    first: str
    second: str


@dataclass(frozen=True)
class WidthChange:
    """One layer with other widths in the second run; an empty text: the layer is not quantized there.

    Attributes:
        layer: its name.
        first: weight bits / input bits in the first run.
        second: likewise.
        bytes: bytes of its weights in the second run minus those in the first.
    """

    layer: str
    first: str
    second: str
    bytes: int


@dataclass(frozen=True)
class AnswerPair:
    """One image that at least one of the two files answers otherwise than its float file.

    Attributes:
        image: its name.
        label: its class.
        first: answer of the first quantized file; the float answer, if the run does not list the image.
        second: likewise.
        thumbnail: JPEG, base64.
    """

    image: str
    label: str
    first: str
    second: str
    thumbnail: str | None


@dataclass(frozen=True)
class TwoRuns:
    """Two results side by side, with a verdict.

    Attributes:
        names: what the two runs are called.
        verdict: one sentence.
        figures: accuracy, size, speed and bits.
        widths: layers whose widths differ, in the order of the graph.
        layers: number of layers in either.
        answers: images that the two files answer differently, as far as the reports list them.
        notes: what limits the comparison.
    """

    names: tuple[str, str]
    verdict: str
    figures: tuple[Figure, ...]
    widths: tuple[WidthChange, ...]
    layers: int
    answers: tuple[AnswerPair, ...]
    notes: tuple[str, ...]


def compare_runs(first: Report, second: Report, names: tuple[str, str]) -> TwoRuns:
    """Compare the reports of two runs.

    Args:
        first: report of the first run.
        second: report of the second run.
        names: what they are called, e.g. their folders.

    Raises:
        UsageError: the reports are about different tasks.
    """
    if first.accuracy.metric != second.accuracy.metric:
        raise UsageError(
            f"{names[0]} is scored by {first.accuracy.metric} and {names[1]} by {second.accuracy.metric}",
            hint="compare two results of the same task",
        )
    layers = dict.fromkeys([layer.name for layer in (*first.layers, *second.layers)])
    return TwoRuns(
        names=names,
        verdict=_verdict(first, second, names),
        figures=_figures(first, second),
        widths=_widths(first, second, list(layers)),
        layers=len(layers),
        answers=_answers(first, second),
        notes=_notes(first, second),
    )


def _verdict(first: Report, second: Report, names: tuple[str, str]) -> str:
    one, two = first.accuracy, second.accuracy
    gain = two.quantized.top1 - one.quantized.top1
    spread = math.hypot(one.standard_error_points, two.standard_error_points)
    points = f"{abs(100 * gain):.2f} ± {spread:.2f} points"
    if abs(100 * gain) <= 2 * spread:
        score = f"the same {one.metric} within chance ({points} {'more' if gain >= 0 else 'less'})"
    else:
        score = f"{points} {'more' if gain > 0 else 'less'} {one.metric}"
    ratio = second.size.quantized_bytes / first.size.quantized_bytes
    speed = second.latency.speedup / first.latency.speedup
    size = "the same size" if f"{ratio:.2f}" == "1.00" else f"{ratio:.2f} times the size"
    distance = f"the same KL of {one.kl_text}" if one.kl_text == two.kl_text else f"KL {two.kl_text}, not {one.kl_text}"
    return f"{names[1]} against {names[0]}: {score}, {size}, {speed:.2f} times the speed, {distance}."


def _figures(first: Report, second: Report) -> tuple[Figure, ...]:
    rows: list[tuple[str, list[str]]] = []
    pair = (first, second)
    metric = first.accuracy.metric
    rows.append((metric, [f"{100 * r.accuracy.quantized.top1:.2f} %" for r in pair]))
    rows.append(
        ("drop, points", [f"{r.accuracy.drop_points:.2f} ± {r.accuracy.standard_error_points:.2f}" for r in pair])
    )
    rows.append(("agreement with float", [r.accuracy.agreement_text for r in pair]))
    rows.append(("KL to float", [r.accuracy.kl_text for r in pair]))
    rows.append(
        (
            "SQNR, dB",
            ["inf" if r.accuracy.logit_sqnr_db is None else f"{r.accuracy.logit_sqnr_db:.1f}" for r in pair],
        )
    )
    rows.append(("size, MB", [megabytes(r.size.quantized_bytes) for r in pair]))
    rows.append(("speed, float = 1", [f"{r.latency.speedup:.2f}x" for r in pair]))
    rows.append(("latency, ms", [f"{r.latency.quantized_ms:.2f}" for r in pair]))
    rows.append(("average weight bits", [f"{r.bits.weight_average:.3f}" for r in pair]))
    rows.append(("chosen by", [r.allocation.metric if r.allocation else "" for r in pair]))
    changes = [r.details.changes if r.details else None for r in pair]
    rows.append(("answers: newly wrong", ["" if c is None else str(c.lost) for c in changes]))
    rows.append(("answers: newly right", ["" if c is None else str(c.won) for c in changes]))
    return tuple(Figure(name, *values) for name, values in rows)


def _widths(first: Report, second: Report, names: list[str]) -> tuple[WidthChange, ...]:
    one, two = ({layer.name: layer for layer in report.layers} for report in (first, second))
    found = []
    for name in names:
        pair = one.get(name), two.get(name)
        texts = ["" if x is None else f"{x.bits_text}/{x.activation_bits}" for x in pair]
        if texts[0] != texts[1]:
            sizes = [0 if x is None else x.bytes for x in pair]
            found.append(WidthChange(name, texts[0], texts[1], sizes[1] - sizes[0]))
    return tuple(found)


def _answers(first: Report, second: Report) -> tuple[AnswerPair, ...]:
    one, two = (_listed(report) for report in (first, second))
    names = {**_names(first), **_names(second)}
    found = []
    for image in dict.fromkeys((*one, *two)):
        known = one.get(image) or two[image]
        answers = [listed[image].quantized_answer if image in listed else known.float_answer for listed in (one, two)]
        if answers[0] != answers[1]:
            label, left, right = (names.get(index, str(index)) for index in (known.label, *answers))
            found.append(AnswerPair(image, label, left, right, known.thumbnail))
    return tuple(found)


def _listed(report: Report) -> dict[str, ChangedImage]:
    changes = report.details.changes if report.details else None
    return {} if changes is None else {image.image: image for image in changes.images}


def _names(report: Report) -> dict[int, str]:
    changes = report.details.changes if report.details else None
    return {} if changes is None else dict(changes.names)


def _notes(first: Report, second: Report) -> tuple[str, ...]:
    notes = []
    if first.model != second.model:
        notes.append(f"the models have different names: {first.model} and {second.model}")
    if first.accuracy.samples != second.accuracy.samples:
        notes.append(f"measured on {first.accuracy.samples} and {second.accuracy.samples} images: scores may differ")
    if first.environment.cpu != second.environment.cpu:
        notes.append("measured on different processors: compare speeds against float, not milliseconds")
    for report in (first, second):
        changes = report.details.changes if report.details else None
        if changes is not None and changes.lost + changes.won + changes.other > len(changes.images):
            notes.append("a report lists only some of its changed answers, so some differences are not shown")
            break
    return tuple(notes)
