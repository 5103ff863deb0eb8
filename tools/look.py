"""Open report.html or sweep.html in a headless Chromium, and check that it draws without errors or network.

    python tools/look.py out/report.html [--light light.png] [--dark dark.png] [--width PIXELS] [--height PIXELS]
    python tools/look.py out/report.html --shots FOLDER

The second form takes the whole page at 1400 and 390 pixels in both themes, and as it prints on A4. The exit code is 1
if a plot is missing, the browser reports an error, or the page fetches anything. It is 3 if there is no Chromium on the
PATH. This needs playwright (in the extra dev), which drives the installed Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
NO_BROWSER = 3
UNDRAWN = (
    "[...document.querySelectorAll('.plot')].filter(plot => !plot.querySelector('.main-svg')).map(plot => plot.id)"
)


WIDTHS = (1400, 390)
"""Pixels of a desk's window and of a telephone."""

SCHEMES = ("light", "dark")
PAPER = 794
"""Pixels of A4."""

SETTLE = 300
"""Milliseconds in which the plots are drawn anew."""


class NotDrawn(Exception):
    """A plot is still empty."""


def find_browser() -> str | None:
    """Find the first Chromium on the PATH."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def open_page(
    browser: Any, path: Path, *, height: int, width: int = 1000, seconds: float = 20.0
) -> tuple[Any, list[str]]:
    """Open the page; return it, and a list of what the browser reports as errors or fetches.

    Raises:
        NotDrawn: a plot is empty after so many seconds.
    """
    trouble: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
    page.on("console", lambda message: trouble.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
    page.on("request", lambda asked: trouble.append(f"fetches {asked.url}") if asked.url != path.as_uri() else None)
    page.goto(path.as_uri())
    end = time.monotonic() + seconds
    while undrawn := page.evaluate(UNDRAWN):
        if time.monotonic() > end:
            raise NotDrawn(f"{path.name}: not drawn: {', '.join(undrawn)}; {'; '.join(trouble) or 'no complaint'}")
        page.wait_for_timeout(50)
    return page, trouble


def take_shots(page: Any, folder: Path) -> list[Path]:
    """Take pictures of the whole page: wide and narrow, light and dark, and printed; return their files."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            page.wait_for_timeout(SETTLE)
            taken.append(folder / f"{width}-{scheme}.png")
            page.screenshot(path=taken[-1], full_page=True)
    page.emulate_media(color_scheme="light")
    taken.append(folder / "print.pdf")
    page.pdf(path=taken[-1], format="A4")
    # The same rules on the screen: a picture that can be looked at without a reader of PDF.
    page.set_viewport_size({"width": PAPER, "height": 900})
    page.emulate_media(media="print", color_scheme="light")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.wait_for_timeout(SETTLE)
    taken.append(folder / "print.png")
    page.screenshot(path=taken[-1], full_page=True)
    return taken


def main() -> int:
    parser = argparse.ArgumentParser(description="Open a page of lampq-onnx in a headless Chromium, and check it.")
    parser.add_argument("page", type=Path)
    parser.add_argument("--light", type=Path, help="write a picture in the light theme")
    parser.add_argument("--dark", type=Path, help="write a picture in the dark theme")
    parser.add_argument("--shots", type=Path, metavar="FOLDER", help="write pictures of the whole page in all forms")
    parser.add_argument("--width", type=int, default=1000, help="width of the window, in pixels")
    parser.add_argument("--height", type=int, default=800, help="height of the window and the pictures, in pixels")
    options = parser.parse_args()
    program = find_browser()
    if program is None:
        print(f"no Chromium: none of {', '.join(NAMES)} is on the PATH", file=sys.stderr)
        return NO_BROWSER

    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            page, trouble = open_page(browser, options.page.resolve(), height=options.height, width=options.width)
            names = page.evaluate("[...document.querySelectorAll('.plot')].map(plot => plot.id)")
            print(f"{browser.version}: {page.title()}")
            print(page.locator("#verdict").inner_text())
            print(f"plots drawn: {', '.join(names)}")
            if not names:
                trouble.append("no plot on the page")
            for scheme in SCHEMES:
                if (picture := getattr(options, scheme)) is not None:
                    page.emulate_media(color_scheme=scheme)
                    page.wait_for_timeout(SETTLE)
                    page.screenshot(path=picture)
            for taken in take_shots(page, options.shots) if options.shots else ():
                print(f"wrote {taken}")
        except NotDrawn as error:
            trouble = [str(error)]
        finally:
            browser.close()
    return exit_code(trouble)


def exit_code(trouble: list[str]) -> int:
    """Print what is wrong; 1 if anything is."""
    for line in trouble:
        print(line, file=sys.stderr)
    return int(bool(trouble))


if __name__ == "__main__":
    raise SystemExit(main())
