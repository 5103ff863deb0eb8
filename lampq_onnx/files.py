"""Files appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lampq_onnx.errors import LampqError

FLOAT_FILE, MODEL_FILE, WEIGHTS_FILE = "float.onnx", "model.onnx", "weights.safetensors"
SENSITIVITY_FILE, PLAN_FILE, REPORT_FILE = "sensitivity.json", "plan.json", "report.json"
RECIPE_FILE, PAGE_FILE = "recipe.toml", "report.html"
OUTPUT_FILES = (
    FLOAT_FILE,
    SENSITIVITY_FILE,
    PLAN_FILE,
    WEIGHTS_FILE,
    MODEL_FILE,
    REPORT_FILE,
    RECIPE_FILE,
    PAGE_FILE,
)
"""What `quantize` writes."""


def require_writable(folder: Path) -> None:
    """Create ``folder`` if needed and prove that files can be made in it.

    Raises:
        LampqError: the folder cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".lampq-"):
            pass
    except OSError as error:
        raise LampqError(
            f"cannot write to the output folder {folder}: {error.strerror or error}",
            hint="choose another folder with --output, or make this one writable",
        ) from error


def require_output_file(path: Path) -> None:
    """Prove that a file can be written at ``path``.

    Raises:
        LampqError: it is a folder, or its folder cannot be written.
    """
    require_writable(path.parent)
    if path.is_dir():
        raise LampqError(f"cannot write the file {path}: a folder has that name", hint="choose another name")


@contextmanager
def staging(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """A private folder inside ``folder`` whose files move into it when the block succeeds.

    Each file arrives by an atomic rename. If the block or a rename raises, ``folder`` is as it was.

    Args:
        names: the files that are meant to appear; that they can is checked before the block.

    Raises:
        LampqError: ``folder`` cannot be written, or holds a folder of one of the names.
    """
    require_writable(folder)
    for name in names:
        require_output_file(folder / name)
    stage = Path(tempfile.mkdtemp(dir=folder, prefix=".lampq-"))
    backup = Path(tempfile.mkdtemp(dir=folder, prefix=".lampq-"))
    try:
        yield stage
        arrived: list[Path] = []
        try:
            for item in sorted(stage.iterdir()):
                target = folder / item.name
                if target.exists():
                    shutil.copy2(target, backup / item.name)
                item.replace(target)
                arrived.append(target)
        except BaseException:
            for target in arrived:
                old = backup / target.name
                if old.exists():
                    old.replace(target)
                else:
                    target.unlink(missing_ok=True)
            raise
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        shutil.rmtree(backup, ignore_errors=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` through a temporary file in the same folder and a rename."""
    require_output_file(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".lampq-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
