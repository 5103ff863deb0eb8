"""The page in a real Chromium: it draws, answers the pointer, follows the theme, prints, and fetches nothing."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lampq_onnx.html import report_page
from lampq_onnx.html.theme import DARK, INK, SURFACE
from tests.html.reports import HOSTILE, report, sensitivities

PLOTS = {"bits", "sensitivities", "errors", "operators", "classes"}


@pytest.fixture(scope="module")
def page(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page, opened from disk; ``trouble`` collects whatever the browser complains about or fetches."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report_page(report(), sensitivities()), encoding="utf-8")
    opened = browser.new_page(viewport={"width": 1000, "height": 800}, color_scheme="light")
    opened.trouble = []
    opened.on("console", lambda message: opened.trouble.append(message.text))
    opened.on("pageerror", lambda error: opened.trouble.append(str(error)))
    opened.on("request", lambda request: opened.trouble.append(request.url) if request.url != path.as_uri() else None)
    opened.goto(path.as_uri())
    opened.wait_for_selector("#classes .main-svg")
    yield opened
    assert opened.trouble == []
    opened.close()


def rgb(colour: str) -> str:
    return "rgb({}, {}, {})".format(*(int(colour[i : i + 2], 16) for i in (1, 3, 5)))


def pdf_colour(colour: str) -> bytes:
    """As Chromium writes a fill: shares of one, without zeros that say nothing."""
    parts = (f"{int(colour[i : i + 2], 16) / 255:.4f}".strip("0") for i in (1, 3, 5))
    return " ".join(parts).encode() + b" rg"


def test_everything_is_drawn(page: Any) -> None:
    assert page.trouble == []
    drawn = page.evaluate("[...document.querySelectorAll('.plot')].filter(p => p.querySelector('svg')).map(p => p.id)")
    assert set(drawn) == PLOTS
    assert page.locator("#operators .barlayer .point").count() == 2 * 13
    assert page.locator("#verdict").inner_text().startswith("Loses 1.00")
    # nothing is wider than the window, and no name became an element or ran
    assert page.evaluate("document.documentElement.scrollWidth") <= 1000
    assert page.title() == f"PASS {HOSTILE}: quantization report"
    assert page.locator("img").count() == 0


def test_the_pointer_shows_a_layers_figures(page: Any) -> None:
    page.locator("#bits").scroll_into_view_if_needed()
    box = page.locator("#bits .heatmaplayer").bounding_box()
    from playwright.sync_api import expect

    page.mouse.move(box["x"] + box["width"] / 6, box["y"] + box["height"] / 4)
    hover = page.locator("#bits .hovertext")
    hover.wait_for()
    assert "blocks.0.attn.qkv" in hover.text_content()
    assert "weights 2 bits" in hover.text_content()
    # the row below has a name full of markup, which is shown as it stands
    page.mouse.move(box["x"] + box["width"] / 6, box["y"] + 3 * box["height"] / 4)
    expect(hover).to_contain_text("3 bits")
    assert "<img src=x" in hover.text_content()
    assert hover.locator("img, script").count() == 0
    page.mouse.move(1, 1)


def test_dark_and_light(page: Any) -> None:
    from playwright.sync_api import expect

    line = page.locator("#errors .scatterlayer .trace:last-child .js-line")
    cell = "getComputedStyle(document.body).backgroundColor"
    for scheme, ink, surface in (("dark", DARK[INK], DARK[SURFACE]), ("light", INK, SURFACE)) * 2:
        page.emulate_media(color_scheme=scheme)
        expect(line).to_have_css("stroke", rgb(ink))
        assert page.evaluate(cell) == rgb(surface)


def test_prints_on_a_few_light_pages(page: Any) -> None:
    page.emulate_media(color_scheme="dark")
    data = page.pdf(prefer_css_page_size=True)
    pages = len(re.findall(rb"/Type\s*/Page\b", data))
    assert 2 <= pages <= 6
    # plots are drawn as lines and text, for paper: black lines and no dark surface
    streams = [
        zlib.decompressobj().decompress(part) for part in re.findall(rb"stream\r?\n(x.*?)endstream", data, re.DOTALL)
    ]
    painted = b"\n".join(streams)
    assert pdf_colour(INK) in painted
    assert pdf_colour(DARK[SURFACE]) not in painted
    page.wait_for_selector("#classes .main-svg")


def test_narrow_windows(page: Any) -> None:
    page.set_viewport_size({"width": 420, "height": 800})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    page.set_viewport_size({"width": 1000, "height": 800})


def test_paths_are_local(tmp_path: Path) -> None:
    """Figures come from the data alone: no page holds the place it was made at."""
    assert str(tmp_path.parent) not in report_page(report())
