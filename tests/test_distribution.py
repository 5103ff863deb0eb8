"""What goes into the archives that are published: built here, without the network."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = (
    "lampq_onnx/py.typed",
    "lampq_onnx/html/templates/report.html",
    "lampq_onnx/html/templates/page.js",
    "lampq_onnx/models/digits/config.json",
    "lampq_onnx/models/digits/model.safetensors",
)


def files_below(folder: str) -> set[str]:
    """Paths of a folder's files as the repository has them, caches left out."""
    found = (path for path in (REPOSITORY / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(REPOSITORY).as_posix() for path in found}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source archive, and the wheel that is built from it and not from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return source, wheel


def test_the_wheel_has_the_package_whole_and_nothing_else(archives: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(archives[1]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        model = wheel.read("lampq_onnx/models/digits/model.safetensors")
        (entry,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
        assert "lampq-onnx = lampq_onnx.__main__:main" in wheel.read(entry).decode()
        assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())
    embedded = {f"lampq_onnx/{name}" for name in files_below("models/digits")}  # others serve benchmarks of a checkout
    assert names == files_below("lampq_onnx") | embedded
    assert names >= set(DATA)
    assert model == (REPOSITORY / "models/digits/model.safetensors").read_bytes()


def test_the_source_archive_has_what_a_checkout_needs(archives: tuple[Path, Path]) -> None:
    with tarfile.open(archives[0]) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    for folder in ("lampq_onnx", "models", "tests", "tools", "docs"):
        assert files_below(folder) <= names
    assert names >= {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Makefile",
        "PKG-INFO",
    }
