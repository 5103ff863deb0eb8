"""The tool that opens a page notices what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tools import look

HEAD = '<!doctype html><title>page</title><link rel="icon" href="data:,"><p id="verdict">fine</p>'
PLOT = '<div class="plot" id="bits"><svg class="main-svg"></svg></div>'


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (PLOT, ""),
        (PLOT + "<script>console.error('oh')</script>", "console: oh"),
        (PLOT + "<script>throw new Error('bad')</script>", "error: bad"),
        (PLOT + '<img src="other.png">', "fetches file:"),
    ],
    ids=["right", "complains", "raises", "fetches"],
)
def test_trouble_is_collected(browser: Any, tmp_path: Path, body: str, said: str) -> None:
    path = tmp_path / "page.html"
    path.write_text(HEAD + body)
    page, trouble = look.open_page(browser, path, height=300)
    page.wait_for_load_state("networkidle")
    page.close()
    assert bool(trouble) is bool(said)
    assert said in " ".join(trouble)


def test_a_plot_that_is_not_drawn_is_waited_for_in_vain(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(HEAD + PLOT + '<div class="plot" id="empty"></div>')
    with pytest.raises(look.NotDrawn, match="empty"):
        look.open_page(browser, path, height=300, seconds=0.2)
