"""Write a model in onnxruntime's own format, for its minimal and mobile builds."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnxruntime
from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

from lampq_onnx.errors import LampqError
from lampq_onnx.serving.source import Source, copy_model, device_of, write_preprocessing

WARNINGS, ERRORS = 2, 3
"""Severities of onnxruntime's log; the first is its default."""


def to_ort(source: Source, folder: Path) -> None:
    """Write ``<name>.ort``, ``preprocessing.json``, and the operators and types that a minimal build needs.

    The file holds the graph after onnxruntime's optimizations on this machine, with weights unpacked to int8. It is
    larger than the ONNX file and loads faster. The optimizations are fixed for this kind of CPU.

    Raises:
        LampqError: the file is for another device, or onnxruntime cannot convert it.
    """
    device_of(source, "onnxruntime on CPUs")
    with tempfile.TemporaryDirectory(prefix="lampq-") as scratch:
        copy = Path(scratch) / f"{source.name}.onnx"
        if source.path.with_name(source.path.name + ".data").exists():
            copy = copy.with_name(source.path.name)
        copy_model(source.path, copy)
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), _quiet():
                convert_onnx_models_to_ort(
                    copy,
                    output_dir=folder,
                    optimization_styles=[OptimizationStyle.Fixed],
                    target_platform="amd64",
                    enable_type_reduction=True,
                )
        except Exception as error:  # onnxruntime's exceptions have no common public base
            raise LampqError(f"{source.path} cannot be written in onnxruntime's format: {str(error)[:500]}") from error
    write_preprocessing(source, folder)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the log of onnxruntime and of its converter from the terminal; failures are raised."""
    onnxruntime.set_default_logger_severity(ERRORS)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
        onnxruntime.set_default_logger_severity(WARNINGS)
