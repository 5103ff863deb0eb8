"""What importing costs, and who may import whom.

A room is a folder of the package, or a module in its root. `ROOMS` lists them from the ground up.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lampq_onnx

PACKAGE = Path(lampq_onnx.__file__).parent
NAME = "lampq_onnx"

ROOT = {"__init__.py", "__main__.py", "errors.py"}

ROOMS = {
    # the ground
    "errors": "",
    "targets": "errors",
    "running": "errors",
    "disk": "errors",
    # values that the stages exchange
    "quantization": "errors disk",
    "data": "errors disk",
    "artifacts": "errors targets disk",
    "measures": "errors running artifacts",
    # who gets which bits, and the options of everything
    "allocation": "errors targets disk quantization artifacts measures",
    "config": "errors targets disk artifacts allocation",
    # float graphs, and the way to quantized ones
    "graph": "errors targets disk quantization data artifacts",
    "importer.processors": "errors disk data artifacts config",
    "importer": "errors disk data artifacts config graph importer.processors",
    "converter.packing": "errors targets quantization graph",
    "converter.passes": "errors targets quantization artifacts graph converter.packing",
    "converter": "errors targets disk quantization artifacts graph converter.packing converter.passes",
    # files that run, and what is found out about them
    "runtime": "errors targets running disk quantization artifacts measures graph converter",
    "runtime.probe": "errors targets running disk quantization artifacts graph converter runtime",
    "evaluation.tasks": "errors running data artifacts measures",
    "evaluation": (
        "errors targets running disk data artifacts measures allocation config graph converter converter.passes "
        "runtime evaluation.tasks"
    ),
    "html": "errors disk artifacts converter evaluation",
    "serving": "errors targets disk data artifacts graph evaluation importer",
    # the front end; only these import torch
    "frontend.shared": "errors running disk quantization data artifacts measures graph",
    "frontend.likelihoods": "errors artifacts evaluation.tasks frontend.shared",
    "frontend.models.checkpoints": "errors disk",
    "frontend.models": (
        "errors disk data artifacts measures config graph importer importer.processors evaluation.tasks "
        "frontend.shared frontend.likelihoods frontend.models.checkpoints"
    ),
    "frontend.onnx_model.operators": "errors",
    "frontend.onnx_model": (
        "errors data artifacts measures config graph importer importer.processors runtime frontend.shared "
        "frontend.models frontend.onnx_model.operators"
    ),
    "frontend.simulation": (
        "errors running artifacts quantization measures graph frontend.shared frontend.likelihoods frontend.onnx_model"
    ),
    "frontend.rounding": (
        "errors running quantization artifacts measures config frontend.shared frontend.likelihoods frontend.simulation"
    ),
    "frontend.measuring": (
        "errors running quantization artifacts measures config graph frontend.shared frontend.likelihoods "
        "frontend.simulation frontend.rounding"
    ),
    "frontend.equalization": (
        "errors quantization graph frontend.shared frontend.likelihoods frontend.simulation frontend.measuring"
    ),
    "frontend": (
        "errors running disk quantization data artifacts config graph importer importer.processors runtime "
        "evaluation.tasks frontend.shared frontend.likelihoods frontend.onnx_model frontend.models.checkpoints "
        "frontend.models frontend.simulation frontend.rounding frontend.measuring frontend.equalization"
    ),
    # whole commands
    "workflow": (
        "errors targets running disk quantization data artifacts measures allocation config graph importer converter "
        "runtime runtime.probe evaluation evaluation.tasks html serving frontend.shared frontend.models "
        "frontend.equalization frontend.measuring frontend.rounding frontend"
    ),
    "workflow.sweep": (
        "errors targets running disk quantization data artifacts allocation config graph converter runtime evaluation "
        "html serving frontend.shared frontend workflow"
    ),
    # the doors
    "api": ("errors running disk data artifacts config graph converter evaluation workflow workflow.sweep"),
    "cli": (
        "errors targets running disk artifacts allocation config graph converter runtime evaluation serving "
        "frontend.models workflow workflow.sweep"
    ),
    "__main__": "errors cli",
}
"""Room -> the rooms that it may import, all of which stand above it in this list."""


def module_of(path: Path) -> str:
    """Dotted name without the package's; empty for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    """The folder of a module, or the module itself where it is in the root."""
    is_folder = MODULES[module].name == "__init__.py"
    return module if is_folder else module.rpartition(".")[0] or module


@cache
def statements(path: Path) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """All import statements of a file, those inside functions included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))


def imported(path: Path) -> list[tuple[str, int]]:
    """Everything that any import statement of a file names, with its line."""
    found: list[tuple[str, int]] = []
    for node in statements(path):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif node.module and not node.level:
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def own_imports(module: str) -> list[tuple[str, int]]:
    """Modules of the package that a module imports, with the lines."""
    found: list[tuple[str, int]] = []
    for name, line in imported(MODULES[module]):
        if name.partition(".")[0] != NAME:
            continue
        inner = name.partition(".")[2]
        while inner not in MODULES:
            inner = inner.rpartition(".")[0]
        if inner != module:
            found.append((inner, line))
    return found


def loaded_after(*modules: str) -> set[str]:
    """Top-level packages in a fresh interpreter that imports ``modules``."""
    code = f"import sys, {', '.join(modules)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_root_stays_small() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == ROOT


def test_every_room_is_listed() -> None:
    assert {room_of(module) for module in MODULES if module} == set(ROOMS)


def test_no_room_may_import_one_below_it() -> None:
    above: set[str] = set()
    for room, allowed in ROOMS.items():
        assert set(allowed.split()) <= above, room
        above.add(room)


def test_rooms_import_only_what_they_may() -> None:
    wrong = [
        f"{MODULES[module].relative_to(PACKAGE)}:{line}: {room_of(module)} may not import {room_of(other)} ({other})"
        for module in MODULES
        if module
        for other, line in own_imports(module)
        if room_of(other) not in {room_of(module), *ROOMS[room_of(module)].split()}
    ]
    assert not wrong, "\n".join(wrong)


def test_no_circle_of_files() -> None:
    # Raises CycleError, which names the files. The face of the package hands on what is called, and imports nothing.
    tuple(
        TopologicalSorter({module: {o for o, _ in own_imports(module)} for module in MODULES if module}).static_order()
    )


def test_imports_are_absolute() -> None:
    relative = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in MODULES.values()
        for node in statements(path)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        (["lampq_onnx"], {"torch", "onnxruntime", "timm", "numpy"}),
        (["lampq_onnx.cli.main"], {"torch", "onnxruntime", "timm"}),
        (["lampq_onnx.converter", "lampq_onnx.evaluation.measure", "lampq_onnx.workflow.ranges"], {"torch", "timm"}),
        (["lampq_onnx.workflow.quantize"], {"timm", "transformers", "triton", "scipy"}),
        (["lampq_onnx.html"], {"torch", "timm", "onnxruntime"}),
        (["lampq_onnx.allocation"], {"torch", "timm", "onnx", "onnx_ir", "onnxruntime"}),
        (["lampq_onnx.quantization"], {"torch", "timm", "onnx", "onnx_ir", "onnxruntime"}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_what_an_import_loads(modules: list[str], unwanted: set[str]) -> None:
    loaded = loaded_after(*modules)
    assert "lampq_onnx" in loaded
    assert not loaded & unwanted


def users_of(*packages: str) -> set[str]:
    """Folders and modules of the root whose files import one of ``packages``."""
    return {
        module.partition(".")[0]
        for module, path in MODULES.items()
        if {name.partition(".")[0] for name, _ in imported(path)} & set(packages)
    }


def test_only_the_front_end_knows_torch() -> None:
    assert users_of("torch", "timm") == {"frontend"}


def test_only_these_run_models() -> None:
    assert users_of("onnxruntime") <= {"runtime", "workflow", "frontend", "serving"}


def test_allocation_knows_no_graphs() -> None:
    assert "allocation" not in users_of("onnx", "onnx_ir", "onnxruntime")


def test_help_works() -> None:
    command = Path(sys.executable).with_name("lampq-onnx")
    if not command.is_file():
        pytest.skip("the package is not installed beside this interpreter")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("quantize", "analyze", "allocate", "convert", "validate", "inspect"):
        assert name in done.stdout
