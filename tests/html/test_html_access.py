"""Everybody can read the pages: rules of axe, keyboard, narrow screens, paper."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from lampq_onnx import Report
from lampq_onnx.artifacts.details import AnswerChanges, ClassChange
from lampq_onnx.artifacts.gates import GateLimits, Problem
from lampq_onnx.evaluation.two_runs import compare_runs
from lampq_onnx.html import report_page
from lampq_onnx.html.sweep import sweep_page
from lampq_onnx.html.two_runs import compare_page
from tests.html.reports import accuracy, layer, report, sensitivities
from tests.html.test_html_sweep import sweep
from tools.look import open_page

ROOT = Path(__file__).parents[2]
AXE = "axe-core/axe.min.js"
FOLDER = os.environ.get("LAMPQ_TESTS_SHOTS")
"""Where pictures of unusual reports are kept, to be looked at; None: nowhere."""

PLACES = [Path(os.environ.get("NODE_PATH", ROOT)) / AXE, ROOT / "node_modules" / AXE]


def pages() -> dict[str, str]:
    second = report(accuracy=accuracy(0.75, 6.0), layers=tuple(layer(f"blocks.{i}.a", 4) for i in range(3)))
    return {
        "report": report_page(report(), sensitivities(), ("model.onnx", "recipe.toml")),
        "sweep": sweep_page(sweep(), ("sweep.json",)),
        "compare": compare_page(compare_runs(report(), second, ("a", "b")), report(), second),
    }


def kinds_of_reports() -> dict[str, Report]:
    """Reports that are unlike the usual one."""
    plain = report(model="vit")
    groups = tuple(
        layer(f"blocks.{block}.{kind}", 4).model_copy(update={"channel_bits": {2: 30, 3: 20, 5: 14}})
        for block in range(12)
        for kind in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    )
    boxes = plain.accuracy.model_copy(
        update={"metric": "AP", "agreement_counts": "boxes found again", "scores": {"AP50": (0.95, 0.94)}}
    )
    features = plain.accuracy.model_copy(
        update={"metric": "cosine", "agreement_counts": "images with the same nearest neighbour", "scores": {}}
    )
    deep = tuple(layer(f"blocks.{i // 4}.layer{i % 4}", 2 + i % 7) for i in range(300))
    one = plain.details.model_copy(update={"changes": AnswerChanges(
        lost=0, won=0, other=0, images=(),
        classes=(ClassChange(label=0, samples=500, float_right=500, quantized_right=500),),
    )})  # fmt: skip
    return {
        "groups": plain.model_copy(update={"layers": groups}),
        "detector": plain.model_copy(
            update={"accuracy": boxes, "details": plain.details.model_copy(update={"changes": None})}
        ),
        "features": plain.model_copy(update={"accuracy": features, "details": None}),
        "failed": plain.model_copy(
            update={
                "limits": GateLimits(max_drop=0.5, min_agreement=0.99),
                "problems": (Problem(code="layer-differs", message="layer blocks.0.attn.qkv differs", layer="x"),),
            }
        ),
        "deep": plain.model_copy(update={"layers": deep, "details": None}),
        "one-class": plain.model_copy(update={"details": one}),
    }


@pytest.mark.parametrize("name", list(kinds_of_reports()))
def test_unusual_reports_are_drawn_and_fit(browser: Any, axe: str, tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.html"
    path.write_text(report_page(kinds_of_reports()[name]), encoding="utf-8")
    page, trouble = open_page(browser, path, height=900, width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 1400, "height": 900})
    page.evaluate(axe)
    broken = page.evaluate("axe.run()")["violations"]
    assert [(rule["id"], rule["nodes"][0]["html"][:200]) for rule in broken] == []
    assert trouble == []
    assert page.locator("h2", has_text="Bits").count() == 1
    if FOLDER:
        page.screenshot(path=Path(FOLDER) / f"{name}.png", full_page=True)
    page.close()


@pytest.fixture(scope="module")
def axe() -> str:
    found = next((path for path in PLACES if path.is_file()), None)
    if found is None:
        pytest.skip("axe-core is not installed (npm install axe-core here, or NODE_PATH to its node_modules)")
    return found.read_text(encoding="utf-8")


def opened(browser: Any, folder: Path, name: str, **options: Any) -> Any:
    path = folder / f"{name}.html"
    path.write_text(pages()[name], encoding="utf-8")
    page = browser.new_page(**options)
    page.goto(path.as_uri())
    page.wait_for_selector(".plot .main-svg")
    return page


@pytest.mark.parametrize("name", ["report", "sweep", "compare"])
def test_no_rule_of_axe_is_broken(browser: Any, axe: str, tmp_path: Path, name: str) -> None:
    page = opened(browser, tmp_path, name, color_scheme="light")
    page.evaluate(axe)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        broken = page.evaluate("axe.run()")["violations"]
        assert [(rule["id"], rule["nodes"][0]["html"][:200]) for rule in broken] == []
    page.close()


@pytest.mark.parametrize("name", ["report", "sweep", "compare"])
def test_the_keyboard_reaches_every_figure(browser: Any, tmp_path: Path, name: str) -> None:
    page = opened(browser, tmp_path, name)
    wanted = page.evaluate("[...document.querySelectorAll('.plot')].map(p => p.id)")
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.querySelector?.('.plot')?.id ?? ''"))
    assert set(wanted) <= reached
    page.close()


@pytest.mark.parametrize("name", ["report", "sweep", "compare"])
def test_tables_are_cards_on_phones(browser: Any, tmp_path: Path, name: str) -> None:
    page = opened(browser, tmp_path, name, viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    cut = page.evaluate(
        "[...document.querySelectorAll('table.cards td')].filter(td => td.offsetParent && td.textContent"
        " && (td.scrollWidth > td.clientWidth + 1 || td.getBoundingClientRect().right > 390))"
        ".map(td => td.textContent)"
    )
    assert cut == []
    labels = page.evaluate(
        "[...document.querySelectorAll('table.cards td')].map(td => getComputedStyle(td, '::before').content)"
    )
    assert labels
    assert all(label not in ("none", '""') for label in labels)
    page.close()


def test_folded_tables_are_open_on_paper(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, "report")
    state = "[...document.querySelectorAll('details')].map(d => d.open)"
    assert not any(page.evaluate(state))
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert all(page.evaluate(state))
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert not any(page.evaluate(state))
    page.close()


def test_words_are_explained(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, "report")
    for link in page.locator("a.term").all():
        target = page.locator(link.get_attribute("href"))
        assert target.count() == 1
        assert link.get_attribute("title") == target.locator("xpath=following-sibling::dd[1]").text_content()
    page.close()


def test_the_head_says_when_and_how_and_links_the_files(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, "report")
    facts = page.locator("#facts")
    assert "lampq-onnx quantize --recipe recipe.toml" in facts.inner_text()
    assert facts.locator("a").evaluate_all("links => links.map(a => a.getAttribute('href'))") == [
        "model.onnx", "recipe.toml",
    ]  # fmt: skip
    page.close()


@pytest.mark.parametrize("name", ["report", "sweep", "compare"])
def test_figures_keep_their_height_when_the_window_changes(browser: Any, tmp_path: Path, name: str) -> None:
    page = opened(browser, tmp_path, name, viewport={"width": 1400, "height": 900})
    heights = "[...document.querySelectorAll('.plot')].map(p => [p.clientHeight, p.querySelector('svg').clientHeight])"
    before = page.evaluate(heights)
    assert all(box == drawn > 100 for box, drawn in before)
    for width in (390, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        end = time.monotonic() + 10
        while page.evaluate("document.querySelector('.plot svg').clientWidth") > width and time.monotonic() < end:
            page.wait_for_timeout(50)
        page.wait_for_timeout(200)
        assert page.evaluate(heights) == before
    page.close()
