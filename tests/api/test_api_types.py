"""What a type checker says of code that uses the package."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import lampq_onnx

PACKAGE = Path(lampq_onnx.__file__).parent

READ = ("__init__.py", "api/__init__.py", "api/arguments.py", "api/files.py", "api/models.py", "config/keywords.py")
"""Files that are read; everything else counts as untyped here, so that this takes seconds."""

SETTINGS = """
[mypy]
strict = true
warn_unused_ignores = true
follow_imports = skip
disallow_any_unimported = false
disallow_subclassing_any = false
warn_return_any = false
cache_dir = {cache}
"""

RIGHT = """
from pathlib import Path
from typing import Unpack

import lampq_onnx


def mine(model: str, **options: Unpack[lampq_onnx.QuantizeKeywords]) -> None:
    lampq_onnx.quantize(model, Path("out"), bits=3, calibration=[], **options)


mine("digits", effort="fast", checkpoint=Path("w.safetensors"), candidates=(2, 4, 8), mean="0.5,0.5,0.5")
mine("digits", activation_bits="mixed", activation_candidates=[4, 8], max_size="4MB", model_args={"depth": 2})
lampq_onnx.sweep("digits", "out", bits=[2, 3.5], metrics=["kl"], pick="min size", threads=1)
lampq_onnx.analyze("digits", bits=3, alpha_measure="top1")
lampq_onnx.doctor("digits", validation="images", crop=0.9)
lampq_onnx.convert("float.onnx", lampq_onnx.BitPlan.load("plan.json"), "model.onnx", packing="exact")
lampq_onnx.validate("model.onnx", None, "images", latency_runs=3, junit="gates.xml")
"""

WRONG = {
    'lampq_onnx.quantize("digits", "out", bitz=3)': 'Unexpected keyword argument "bitz"',
    'lampq_onnx.quantize("digits", "out", bits="four")': 'Argument "bits" to "quantize" has incompatible type "str"',
    'lampq_onnx.quantize("digits", "out", effort="heroic")': 'Argument "effort" to "quantize" has incompatible type',
    'lampq_onnx.quantize("digits", "out", max_size=4)': 'Argument "max_size" to "quantize" has incompatible type "int"',
    'lampq_onnx.quantize("digits", "out", candidates=2)': 'Argument "candidates" to "quantize" has incompatible type',
    'lampq_onnx.analyze("digits", packing="exact")': 'Unexpected keyword argument "packing" for "analyze"',
    'lampq_onnx.sweep("digits", "out", max_size="4MB")': 'Unexpected keyword argument "max_size" for "sweep"',
    'lampq_onnx.validate("m", None, "i", effort="fast")': 'Unexpected keyword argument "effort" for "validate"',
    "lampq_onnx.quantise": 'Module has no attribute "quantise"',
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """File -> what mypy says of it."""
    folder = tmp_path_factory.mktemp("types")
    settings, right, wrong = folder / "mypy.ini", folder / "right.py", folder / "wrong.py"
    settings.write_text(SETTINGS.format(cache=folder / "cache"))
    right.write_text(RIGHT)
    wrong.write_text("import lampq_onnx\n\n" + "\n".join(WRONG) + "\n")
    files = [str(PACKAGE / name) for name in READ]
    words = ["--config-file", str(settings), "--no-error-summary", "--no-pretty", str(right), str(wrong), *files]
    done = subprocess.run([sys.executable, "-m", "mypy", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    lines: dict[str, list[str]] = {"right.py": [], "wrong.py": []}
    for line in done.stdout.splitlines():
        lines.setdefault(Path(line.partition(":")[0]).name, []).append(line)
    return lines


def test_right_code_passes(said: dict[str, list[str]]) -> None:
    assert not said["right.py"]


@pytest.mark.parametrize("code", WRONG)
def test_wrong_names_and_types_are_found(code: str, said: dict[str, list[str]]) -> None:
    number = list(WRONG).index(code) + 3
    (line,) = (line for line in said["wrong.py"] if re.search(rf":{number}: error", line))
    assert WRONG[code] in line
