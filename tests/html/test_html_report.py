"""The page of a report: what it says, and that it holds everything and runs nothing else."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lampq_onnx.artifacts.gates import GateLimits, Problem
from lampq_onnx.html import report_page
from lampq_onnx.html.advice import advise
from lampq_onnx.html.figures import bit_map, operators, output_errors
from lampq_onnx.html.places import place_of
from lampq_onnx.html.theme import DARK, WIDTHS
from lampq_onnx.html.verdict import verdict
from tests.cli.conftest import invoke
from tests.html.reports import HOSTILE, NAMES, accuracy, details, layer, report, sensitivities


class Elements(HTMLParser):
    """Tags and their attributes, and the visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def test_one_file_that_names_nothing_outside() -> None:
    page = report_page(report(), sensitivities())
    assert len(page.encode()) < 6e6
    for tag, attributes in Elements(page).tags:
        for key in ("src", "href"):
            assert (attributes.get(key) or "data:").startswith(("data:", "#")), (tag, attributes)
    assert "default-src 'none'" in page


def test_names_stay_names() -> None:
    elements = Elements(report_page(report(), sensitivities()))
    assert sum(tag == "img" for tag, _ in elements.tags) == 0
    assert sum(tag == "script" for tag, _ in elements.tags) == 4
    assert elements.words.count(HOSTILE) >= 3  # heading, note, changed image
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', report_page(report())).group(1))
    texts = json.dumps(figures)
    assert "<img" not in texts
    assert "&lt;img" in texts


@pytest.mark.parametrize(
    ("changes", "tone", "words"),
    [
        ({}, "warn", ["Loses 1.00 ± 0.20 points", "4.0x smaller", "2.00x faster", "more than uniform 3.00 bits"]),
        ({"accuracy": accuracy(spread=0.6)}, "good", ["not significant", "1.00 ± 0.60"]),
        ({"accuracy": accuracy(0.3, 40.0)}, "bad", ["Unusable", "70.00 %", "30.00 %"]),
        ({"notes": ("onnxruntime computes layer x with an error",)}, "warn", ["Loses"]),
        (
            {"problems": (Problem(code="layer-differs", message="layer x is wrong"),)},
            "bad",
            ["does not run on this machine"],
        ),
        ({"limits": GateLimits(max_drop=0.5)}, "bad", ["Loses"]),
        ({"limits": GateLimits(max_drop=1.5)}, "warn", ["Loses"]),
        ({"baselines": {}}, "warn", ["Not compared with uniform bits"]),
    ],
)
def test_verdict(changes: dict[str, object], tone: str, words: list[str]) -> None:
    found = verdict(report(**changes))
    assert found.tone == tone
    for word in words:
        assert word in found.line


def test_places() -> None:
    assert place_of("blocks.3.attn.qkv") == ("3", "attn.qkv")
    assert place_of("layers.0.blocks.1.mlp.fc1") == ("0.1", "mlp.fc1")
    assert place_of("head") is None


def test_the_bit_map_shows_every_layers_width() -> None:
    plot = bit_map([*report().layers, layer("head", 8)]).plot
    (cells,) = plot.data
    assert [list(line) for line in cells.text] == [["2", "4", "6"], ["3", "5", "7"]]
    colours = [colour for _, colour in cells.colorscale]
    for line, shown in zip(cells.z, cells.text, strict=True):
        for rank, bits in zip(line, shown, strict=True):
            assert colours[2 * rank] == WIDTHS[int(bits)]
    assert "blocks.0.attn.qkv" in cells.customdata[0][0]
    mixed = bit_map([layer("blocks.0.a", 2), layer("blocks.1.a", 2, activation_bits=16)]).plot
    assert [list(trace.text[0]) for trace in mixed.data] == [["2", "2"], ["8", "16"]]
    assert bit_map([layer("head", 8)]) is None


def test_the_bit_map_shows_the_mix_within_a_layer() -> None:
    mixed = layer("blocks.0.a", 5).model_copy(update={"channel_bits": {2: 10, 3: 20, 5: 10}})
    plot = bit_map([layer("blocks.0.b", 4), mixed, layer("blocks.1.a", 4)]).plot
    (cells,) = plot.data
    row = list(cells.y).index("a")
    assert list(cells.text[row]) == ["3.2", "4"]
    colours = [colour for _, colour in cells.colorscale]
    assert colours[2 * round(cells.z[row][0])] == WIDTHS[3]  # that of the nearest width
    assert "weights 3.25 (2-5) bits" in cells.customdata[row][0]
    assert "10 channels of 2 bits, 20 of 3, 10 of 5" in cells.customdata[row][0]
    assert "channels" not in cells.customdata[row][1]
    strip = plot.layout.shapes
    assert [shape.fillcolor for shape in strip] == [WIDTHS[bits] for bits in (2, 3, 5)]
    whole = strip[-1].x1 - strip[0].x0
    assert [(shape.x1 - shape.x0) / whole for shape in strip] == pytest.approx([0.25, 0.5, 0.25])
    assert (strip[0].x0 + strip[-1].x1) / 2 == pytest.approx(0)  # in the column of block 0
    assert all(row < shape.y0 < shape.y1 < row + 0.5 for shape in strip)


def test_every_light_colour_has_a_dark_one() -> None:
    page = report_page(report())
    figures = re.search(r'id="figures">(.*?)</script>', page).group(1)
    used = set(re.findall(r"#[0-9a-f]{6}", figures))
    assert len(used) > 10
    assert used <= set(DARK)
    assert len(set(WIDTHS.values())) == len(WIDTHS)


def test_errors_and_times_are_drawn_whole() -> None:
    plot = output_errors(details().errors).plot
    assert list(plot.data[-1].y) == [18, 11, 10]
    assert sum(len(trace.y) for trace in plot.data[:-1]) == len(NAMES)
    times = details().operators
    for trace, key in zip(operators(times).plot.data, ("float_ms", "quantized_ms"), strict=True):
        assert sum(trace.x) == pytest.approx(sum(getattr(o, key) for o in times.operators))
    assert "largest drop from one block to the next is 7.0 dB, in blocks.1" in report_page(report())


def test_advice_names_the_layers_that_gain_most() -> None:
    found = advise(report(), sensitivities())
    raised = [row for row in found.rows if "cheapest" not in row.change]
    # The gain of a bit is 0.01 times the position plus one: the last layers come first.
    assert [row.layer for row in raised] == NAMES[:0:-1]
    assert raised[0].now == "7 bits"
    assert raised[0].change == "8 bits"
    assert raised[0].effect == "KL -0.06, +1.0 kB"
    without = advise(report(), None)
    # From errors alone: the noisiest outputs of layers below 8 bits.
    assert [row.layer for row in without.rows] == NAMES[:0:-1]
    wide = advise(report(layers=(layer("blocks.0.a", 8, activation_bits=16),), details=None), None)
    assert "float kernel" in wide.rows[0].effect
    assert advise(report(layers=(), details=None), None).rows == ()


def test_parts_that_were_not_measured_are_left_out() -> None:
    page = report_page(report(details=None, layers=(layer("head", 8, trace=None),), baselines={}))
    for title in ("Where the time goes", "Where the error grows", "Answers that changed", "Sensitivities"):
        assert f"<h2>{title}" not in page


def test_the_command_draws_a_folder(tmp_path: Path) -> None:
    report().save(tmp_path / "report.json")
    code, out, _ = invoke("report", tmp_path)
    assert code == 0
    assert "report.html" in out
    assert (tmp_path / "report.html").read_text() == report_page(report(), files=["report.json"])
    sensitivities().save(tmp_path / "sensitivity.json")
    code, _, _ = invoke("report", tmp_path / "report.json", "-o", tmp_path / "other.html")
    assert (tmp_path / "other.html").read_text() == report_page(
        report(), sensitivities(), ["report.json", "sensitivity.json"]
    )
    (tmp_path / "empty").mkdir()
    code, _, err = invoke("report", tmp_path / "empty")
    assert code == 2
    assert "empty has no report.json" in err
    code, _, err = invoke("report", tmp_path / "nothing")
    assert code == 1
    assert "nothing" in err
