"""The line under the heading of a page: when and how it was made, and the files beside it."""

from __future__ import annotations

from collections.abc import Sequence

from lampq_onnx.artifacts.report import Environment
from lampq_onnx.disk.files import OUTPUT_FILES, PAGE_FILE, RECIPE_FILE

LINKED = (*(name for name in OUTPUT_FILES if name != PAGE_FILE), "sweep.html", "sweep.json", "sweep.csv")
"""Files that a page links to, if they lie beside it."""


def facts(written: str | None, environment: Environment, files: Sequence[str], command: str = "quantize") -> str:
    """Return date, command and versions as one line.

    Args:
        written: date and time; None: not known.
        environment: machine and versions.
        files: names of files beside the page.
        command: the command that wrote it.
    """
    parts = [] if written is None else [written.replace("T", " ").removesuffix("+00:00") + " UTC"]
    if RECIPE_FILE in files:
        parts.append(f"lampq-onnx {command} --recipe {RECIPE_FILE}")
    runs = environment.versions.get("onnxruntime")
    parts.append(f"lampq-onnx {environment.lampq_onnx}{f', onnxruntime {runs}' if runs else ''}")
    parts.append(f"target {environment.target}")
    return " · ".join(parts)
