"""Check what the steps of a walk must leave behind."""

from __future__ import annotations

import json
import re
import shlex
import zipfile
from pathlib import Path
from xml.etree import ElementTree

from tools.walking.steps import Failure

RESULTS = (
    "float.onnx", "sensitivity.json", "plan.json", "weights.safetensors", "model.onnx", "report.json", "report.html",
)  # fmt: skip
PACKAGE_DATA = (
    "lampq_onnx/py.typed", "lampq_onnx/models/digits/config.json", "lampq_onnx/models/digits/model.safetensors",
    "lampq_onnx/html/templates/report.html", "lampq_onnx/html/templates/sweep.html",
)  # fmt: skip


def require(*paths: Path) -> None:
    """Require files that exist and are not empty."""
    missing = [str(path) for path in paths if not path.is_file() or not path.stat().st_size]
    if missing:
        raise Failure(f"missing or empty: {', '.join(missing)}")


def wheels(folder: Path) -> list[str]:
    """Find the only wheel in a folder."""
    found = [str(path) for path in folder.glob("*.whl")]
    if len(found) != 1:
        raise Failure(f"{folder}: {len(found)} wheels, expected 1")
    return found


def wheel(folder: Path) -> str:
    """Require the wheel to hold its data files."""
    (path,) = wheels(folder)
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    missing = [name for name in PACKAGE_DATA if name not in names]
    if missing:
        raise Failure(f"{path} lacks {', '.join(missing)}")
    return f"{Path(path).name}, {Path(path).stat().st_size / 1e6:.2f} MB"


def quickstart(makefile: Path) -> list[str]:
    """Read the command of `make quickstart`."""
    found = re.search(r"^quickstart:.*\n\t\$\(BIN\)/(.+)$", makefile.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise Failure(f"{makefile}: no command of quickstart")
    return shlex.split(found[1])


def snippet(readme: Path, folder: Path) -> None:
    """Write the README's Python example to snippet.py."""
    found = re.search(
        r"^## In Python\n\n```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    if found is None:
        raise Failure(f"{readme}: no example in Python")
    (folder / "snippet.py").write_text(found[1], encoding="utf-8")


def results(folder: Path) -> str:
    """Require all files of a run in the folder."""
    require(*(folder / name for name in (*RESULTS, "recipe.toml")))
    return _figures(folder / "report.json")


def picked(folder: Path) -> str:
    """Require that the sweep picked a point, and that its files are in the folder."""
    require(*(folder / name for name in (*RESULTS, "sweep.json", "sweep.csv", "sweep.html")))
    sweep = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    if not sweep["picked"]:
        raise Failure(f"{folder / 'sweep.json'}: no point was picked")
    return f"{sweep['picked']} of {len(sweep['points'])} points: {_figures(folder / 'report.json')}"


def packaged(folder: Path) -> str:
    """Require one file in onnxruntime's format."""
    found = list(folder.glob("*.ort"))
    if len(found) != 1:
        raise Failure(f"{folder}: {len(found)} .ort files, expected 1")
    require(*found)
    return f"{found[0].name}, {found[0].stat().st_size / 1e6:.2f} MB"


def gates(junit: Path, *, failed: bool) -> str:
    """Read the gates as a pipeline does; require that some failed, or none."""
    require(junit, junit.with_suffix(".md"))
    cases = list(ElementTree.parse(junit).iter("testcase"))
    bad = [case.get("name", "") for case in cases if case.find("failure") is not None]
    if not cases or bool(bad) is not failed:
        raise Failure(f"{junit}: {len(bad)} of {len(cases)} gates failed, expected {'some' if failed else 'none'}")
    return f"failed: {', '.join(bad)}" if bad else f"{len(cases)} gates"


def bad_plan(path: Path, depth: int, layers: tuple[str, ...]) -> None:
    """Write a plan by hand that leaves nothing of the model: one bit everywhere."""
    widths = {"weight_bits": 1, "activation_bits": 8}
    plan = {"layers": {f"blocks.{block}.{layer}": widths for block in range(depth) for layer in layers}}
    path.write_text(json.dumps(plan), encoding="utf-8")


def _figures(report: Path) -> str:
    """Summarize accuracy and size in a few words."""
    found = json.loads(report.read_text(encoding="utf-8"))
    accuracy, size = found["accuracy"], found["size"]
    return (
        f"top-1 {accuracy['float']['top1']:.1%} -> {accuracy['quantized']['top1']:.1%}, "
        f"{size['float_bytes'] / 1e6:.2f} -> {size['quantized_bytes'] / 1e6:.2f} MB"
    )
