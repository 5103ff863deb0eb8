"""What importing costs, and which part knows which framework."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lampq_onnx

PACKAGE = Path(lampq_onnx.__file__).parent


def loaded_after(*modules: str) -> set[str]:
    """Top-level packages in a fresh interpreter that imports ``modules``."""
    code = f"import sys, {', '.join(modules)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        (["lampq_onnx"], {"torch", "onnxruntime", "timm", "numpy"}),
        (["lampq_onnx.cli.main"], {"torch", "onnxruntime", "timm"}),
        (
            ["lampq_onnx.converter", "lampq_onnx.runtime", "lampq_onnx.validation", "lampq_onnx.calibration"],
            {"torch", "timm"},
        ),
        (["lampq_onnx.html"], {"torch", "timm", "onnxruntime"}),
        (["lampq_onnx.allocation"], {"torch", "timm", "onnx", "onnx_ir", "onnxruntime"}),
        (["lampq_onnx.quantization"], {"torch", "timm", "onnx", "onnx_ir", "onnxruntime"}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_imports(modules: list[str], unwanted: set[str]) -> None:
    loaded = loaded_after(*modules)
    assert "lampq_onnx" in loaded
    assert not loaded & unwanted


def imported(path: Path) -> set[str]:
    """Top-level packages named by any import statement of a file, those inside functions included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_only_the_front_end_knows_torch() -> None:
    users = {path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py") if {"torch", "timm"} & imported(path)}
    assert users == {"frontend"}


def test_only_the_front_end_and_the_runtime_run_models() -> None:
    users = {path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py") if "onnxruntime" in imported(path)}
    assert users <= {"runtime", "calibration.py", "frontend", "serving"}


def test_help_works() -> None:
    command = Path(sys.executable).with_name("lampq-onnx")
    if not command.is_file():
        pytest.skip("the package is not installed beside this interpreter")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("quantize", "analyze", "allocate", "convert", "validate", "inspect"):
        assert name in done.stdout
