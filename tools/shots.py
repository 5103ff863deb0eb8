"""Take pictures of what a user sees: the terminal at several widths, and the pages in all their forms.

    python -m tools.shots FOLDER                 # the embedded model; minutes
    python -m tools.shots FOLDER --only inspect  # one picture of the terminal again, from the files in FOLDER

FOLDER gets terminal/NAME-COLUMNS.png, and the pictures of `tools/look.py --shots` of the report, the sweep and the
comparison. The exit code is 1 if a table is wider than its terminal or a page shows trouble, and 3 without a Chromium.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from tools.look import FLAGS, NAMES, NO_BROWSER, exit_code, find_browser, open_page, take_shots
from tools.terminal import Terminal, screen

COLUMNS = (80, 120)
BITS = ("--bits", "3", "--baseline", "uniform")
COMMANDS: dict[str, tuple[str, ...]] = {
    "alone": (),
    "quantize": ("quantize", "digits", *BITS, "--output", "out"),
    "again": ("quantize", "digits", *BITS, "--output", "out"),
    "other-recipe": ("quantize", "digits", "--bits", "4", "--output", "out"),
    "verbose": ("quantize", "digits", *BITS, "--output", "out", "-v"),
    "inspect": ("inspect", "out/model.onnx"),
    "explain": ("explain", "out/model.onnx"),
    "package": ("package", "out", "--format", "triton"),
    "sweep": ("sweep", "digits", "--bits", "2..4:1", "--output", "sweep", "--pick", "drop<=1, min size"),
    "compare": ("compare", "out", "sweep", "--output", "compare.html"),
    "doctor": ("doctor",),
    "help": ("quantize", "--help"),
    "list": ("list", "targets"),
    "mistake": ("quantize", "digitz", "--output", "never"),
}
"""Name of a picture -> the words behind `lampq-onnx`, in an order in which each finds its files."""

PAGES = ("out/report.html", "sweep/sweep.html", "compare.html")


FONTS = re.compile(r"@font-face \{.*?\}", re.DOTALL)
"""Fonts that would be fetched; the monospaced one of the system is taken."""


def drawn(text: str, columns: int, title: str) -> str:
    """An SVG of a terminal with this text, colours included."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(text, overflow="fold"))
    return FONTS.sub("", console.export_svg(title=title, theme=MONOKAI))


def photograph(browser: Any, svg: str, path: Path) -> None:
    """Draw an SVG to a PNG file."""
    page = browser.new_page(viewport={"width": 1600, "height": 900})
    page.set_content(f"<body style='margin:0'>{svg}</body>")
    page.evaluate(
        "document.querySelector('svg').setAttribute('width', document.querySelector('svg').viewBox.baseVal.width)"
    )
    page.locator("svg").screenshot(path=path)
    page.close()


def take_terminal(browser: Any, name: str, columns: int, folder: Path) -> list[str]:
    """Run a command on a terminal and photograph its end; return what is wrong with it."""
    terminal = Terminal(*COMMANDS[name], columns=columns, folder=folder / str(columns))
    terminal.wait()
    text = screen(terminal.raw, colours=True).rstrip()
    title = " ".join(("lampq-onnx", *COMMANDS[name]))
    photograph(browser, drawn(text, columns, title), folder / "terminal" / f"{name}-{columns}.png")
    # Single lines may be longer: the terminal breaks them. Parts of tables may not.
    wide = [line for line in screen(terminal.raw).splitlines() if len(line) > columns and "   " in line]
    return [f"{name} at {columns}: {line}" for line in wide]


def main() -> int:
    parser = argparse.ArgumentParser(description="Take pictures of the terminal and of the pages.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=sorted(COMMANDS), help="one picture of the terminal, and no pages")
    options = parser.parse_args()
    program = find_browser()
    if program is None:
        print(f"no Chromium: none of {', '.join(NAMES)} is on the PATH", file=sys.stderr)
        return NO_BROWSER
    folder = options.folder.resolve()
    for columns in COLUMNS:
        (folder / str(columns)).mkdir(parents=True, exist_ok=True)
    (folder / "terminal").mkdir(exist_ok=True)

    from playwright.sync_api import sync_playwright

    trouble = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        for columns in COLUMNS:
            for name in [options.only] if options.only else COMMANDS:
                trouble += take_terminal(browser, name, columns, folder)
        for path in () if options.only else PAGES:
            page, said = open_page(browser, folder / str(COLUMNS[0]) / path, height=900)
            trouble += [f"{path}: {line}" for line in said]
            take_shots(page, folder / Path(path).stem)
            page.close()
        browser.close()
    return exit_code(trouble)


if __name__ == "__main__":
    raise SystemExit(main())
