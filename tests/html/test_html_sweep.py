"""Budgets: which are asked for, which are worth having, which one is wanted, and their page."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import pytest

from lampq_onnx.artifacts.gates import GateLimits
from lampq_onnx.artifacts.report import Baseline
from lampq_onnx.artifacts.sweep import Sweep, SweepPoint
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.html.sweep import sweep_page
from lampq_onnx.workflow.sweep import PointFolder, pareto_front, parse_bits, parse_pick, write_points_csv
from tests.html.reports import HOSTILE, accuracy, latency, report


def point(metric: str, bits: float, size: int, kl: float, drop: float = 1.0, speed: float = 2.0) -> SweepPoint:
    measured = Baseline(
        weight_average=bits,
        accuracy=accuracy(0.8 - drop / 100, drop, kl=kl),
        quantized_bytes=size,
        latency=latency(speed),
    )
    return SweepPoint(metric=metric, bits=bits, updated=False, measured=measured, rounding={})


POINTS = (
    point("kl", 2, 1_000_000, 0.2, 3.0, 1.9),
    point("kl", 3, 1_500_000, 0.05, 0.9, 2.1),
    point("kl", 4, 2_000_000, 0.02, 0.2),
    point("uniform", 2, 990_000, 0.4, 6.0),
    point("uniform", 3, 1_490_000, 0.21, 2.0),
    point("uniform", 4, 2_000_000, 0.03, 0.8),
)


def sweep(**changes: object) -> Sweep:
    names = tuple(p.name for p in pareto_front(POINTS))
    known = Sweep(model="m", float_bytes=8_000_000, points=POINTS, front=names, environment=report().environment)
    return known.model_copy(update=changes)


@pytest.mark.parametrize(
    ("text", "budgets"),
    [
        ("2.5..4", (2.5, 3.0, 3.5, 4.0)),
        ("2..3:0.25", (2.0, 2.25, 2.5, 2.75, 3.0)),
        ("3, 2.1,3", (2.1, 3.0)),
        ("7..8,2", (2.0, 7.0, 7.5, 8.0)),
    ],
)
def test_budgets(text: str, budgets: tuple[float, ...]) -> None:
    assert parse_bits(text) == budgets


@pytest.mark.parametrize("text", ["", "9", "0.5..3", "4..2", "2..3:0", "two", "2..8:0.001", "nan"])
def test_budgets_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match="--bits takes budgets from 1 to 8"):
        parse_bits(text)


def test_the_front_is_what_no_other_point_beats() -> None:
    def beaten(one: SweepPoint) -> bool:
        return any(
            o.measured.quantized_bytes <= one.measured.quantized_bytes and o.accuracy.kl <= one.accuracy.kl
            for o in POINTS
            if o is not one
        )

    front = pareto_front(POINTS)
    assert {p.name for p in front} == {p.name for p in POINTS if not beaten(p)}
    assert all(a.measured.quantized_bytes < b.measured.quantized_bytes for a, b in itertools.pairwise(front))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("drop<=1, min size", "kl-3"),
        ("min kl", "kl-4"),
        ("drop <= 1, size<=1.8, max speedup", "kl-3"),
        ("kl>=0.1,min size", "uniform-2"),
        ("max top1", "kl-4"),
        ("bits<=3,min drop", "kl-3"),
    ],
)
def test_picks(text: str, name: str) -> None:
    assert parse_pick(text).choose(POINTS).name == name


def test_picks_that_cannot_be() -> None:
    with pytest.raises(LampqError, match=r"no point meets drop<=0\.1; nearest to drop<=0\.1 is kl-4 with drop 0\.2"):
        parse_pick("drop<=0.1, min size").choose(POINTS)
    for text, words in (
        ("drop<=1", "exactly one goal"),
        ("min size, min kl", "exactly one goal"),
        ("beauty<=1, min size", "no figure 'beauty'"),
        ("drop<1, min size", "cannot read 'drop<1'"),
    ):
        with pytest.raises(UsageError, match=words):
            parse_pick(text)


def test_a_point_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = PointFolder(tmp_path / "points")
    assert folder.get("kl-2") is None

    def broken(stage: Path) -> SweepPoint:
        (stage / "model.onnx").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folder.put("kl-2", broken)
    assert not folder.root.exists()

    def whole(stage: Path) -> SweepPoint:
        (stage / "model.onnx").write_bytes(b"whole")
        return POINTS[0]

    folder.put("kl-2", whole)
    assert folder.get("kl-2") == POINTS[0]
    assert sorted(path.name for path in (folder.root / "kl-2").iterdir()) == ["model.onnx", "point.json"]


def test_the_table(tmp_path: Path) -> None:
    write_points_csv(POINTS, sweep().front, tmp_path / "sweep.csv")
    with (tmp_path / "sweep.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["metric"], float(row["bits"]), int(row["bytes"])) for row in rows] == [
        (p.metric, p.bits, p.measured.quantized_bytes) for p in POINTS
    ]
    assert [row["front"] for row in rows] == ["1", "1", "1", "1", "0", "0"]


def test_the_page_in_a_browser(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "sweep.html"
    path.write_text(sweep_page(sweep(model=HOSTILE, picked="kl-3", request="drop<=1, min size")), encoding="utf-8")
    assert path.stat().st_size < 6e6
    page = browser.new_page(viewport={"width": 1000, "height": 800})
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("#kl_speed .main-svg")
    assert page.locator("#verdict").inner_text().startswith("Picked by drop<=1, min size: kl at 3 bits, 1.50 MB")
    assert page.locator("#kl_size .point").count() == len(POINTS) + len(sweep().front)
    assert page.locator("tr.own").inner_text().startswith("kl\t3")
    assert page.locator("img").count() == 0
    box = page.locator("#kl_size .point").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    hover = page.locator("#kl_size .hovertext")
    hover.wait_for()
    assert "kl, 2 bits" in hover.text_content()
    assert trouble == []
    page.close()


def test_the_page_says_whether_the_picked_file_passes() -> None:
    assert 'id="gate"' not in sweep_page(sweep())
    chosen = sweep(picked="kl-3", request="drop<=1, min size")
    assert '<p class="gate good" id="gate">The picked file: PASS' in sweep_page(chosen, picked=report())
    failing = report(limits=GateLimits(max_drop=0.1), accuracy=accuracy(0.7, 10.0))
    page = sweep_page(chosen, picked=failing)
    assert '<p class="gate bad" id="gate">The picked file: FAIL' in page
