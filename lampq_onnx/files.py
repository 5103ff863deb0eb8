"""Files appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lampq_onnx.errors import LampqError

FLOAT_FILE, MODEL_FILE, WEIGHTS_FILE = "float.onnx", "model.onnx", "weights.safetensors"
SENSITIVITY_FILE, PLAN_FILE, REPORT_FILE = "sensitivity.json", "plan.json", "report.json"
OUTPUT_FILES = (FLOAT_FILE, SENSITIVITY_FILE, PLAN_FILE, WEIGHTS_FILE, MODEL_FILE, REPORT_FILE)
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


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A private folder inside ``folder`` whose files move into it when the block succeeds.

    Each file arrives by an atomic rename. If the block raises, nothing in ``folder`` has changed.
    """
    require_writable(folder)
    stage = Path(tempfile.mkdtemp(dir=folder, prefix=".lampq-"))
    try:
        yield stage
        for item in sorted(stage.iterdir()):
            item.replace(folder / item.name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` through a temporary file in the same folder and a rename."""
    require_writable(path.parent)
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
