"""Every path that a Markdown file names is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

FOLDERS = ("lampq_onnx", "tests", "tools", "docs", "models", ".github")
"""What starts with one of these is a path from the root of the checkout."""

BASES = (REPOSITORY, REPOSITORY / "lampq_onnx")
"""Shorter paths of Python files count from one of these."""

PATH = re.compile(r"(?<![\w./:<-])((?:[\w.-]+/)+[\w.*-]*)")
"""Words with a slash in them; not behind a slash or a colon, as in addresses."""

LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")


def pages() -> list[Path]:
    """Markdown files of the checkout that git knows, or all of them where there is no git."""
    done = subprocess.run(["git", "ls-files", "*.md"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    names = done.stdout.split()
    found = [REPOSITORY / name for name in names] or [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
    return sorted(path for path in found if path.is_file())


def missing_paths(text: str, page: Path) -> list[str]:
    """Paths that a page names, in its text or as links, and that are not there.

    Args:
        page: where the text stands; links count from its folder.
    """
    wanted: list[tuple[str, tuple[Path, ...]]] = []
    for word in PATH.findall(text):
        name = word.rstrip(".")
        if name.partition("/")[0] in FOLDERS:
            wanted.append((name, (REPOSITORY, page.parent)))
        elif name.endswith(".py") and not name.partition("/")[0].isupper():  # FOLDER/x.py is wherever the reader says
            wanted.append((name, (*BASES, page.parent)))
    wanted += [(link, (page.parent,)) for link in LINK.findall(text) if "://" not in link and ":" not in link]
    return [name for name, bases in wanted if not any(_is_there(base, name) for base in bases)]


def _is_there(base: Path, name: str) -> bool:
    return any(base.glob(name)) if "*" in name else (base / name).exists()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_paths_are_there(page: Path) -> None:
    assert not missing_paths(page.read_text(encoding="utf-8"), page)


def test_missing_ones_are_found() -> None:
    text = """
    `tools/gone.py` and tools/walk.py, `converter/gone.py`, `converter/convert.py`, [a](gone.md), [b](CONTRIBUTING.md#x)
    https://example.org/tests/gone.py, FOLDER/tools/gone.py, out/model.onnx, tests/gone/, docs/*.md, docs/*.gone
    """
    assert missing_paths(text, REPOSITORY / "README.md") == [
        "tools/gone.py",
        "converter/gone.py",
        "tests/gone/",
        "docs/*.gone",
        "gone.md",
    ]
