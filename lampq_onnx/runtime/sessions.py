"""onnxruntime sessions with one image input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from lampq_onnx.errors import LampqError

SILENT = 3
"""onnxruntime's log level for errors only; everything that fails is raised as well."""


@dataclass(frozen=True)
class Runner:
    """A session and the names of its image input and its outputs."""

    session: Any
    input: str
    outputs: tuple[str, ...]
    fixed_batch: int | None

    def __call__(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """First output for a batch (n, c, h, w); files with a fixed batch are fed in pieces of it."""
        if self.fixed_batch is None:
            return np.asarray(self.session.run([self.outputs[0]], {self.input: images})[0])
        step = self.fixed_batch
        if len(images) % step:
            raise LampqError(f"the file takes batches of {step} images and {len(images)} is no multiple of that")
        parts = [
            self.session.run([self.outputs[0]], {self.input: images[i : i + step]})[0]
            for i in range(0, len(images), step)
        ]
        return np.concatenate(parts)


def session_options(threads: int, *, optimize: bool = True) -> Any:
    """Options used everywhere: the given number of threads, all optimizations or none."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = SILENT
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    return options


def open_runner(model: Path | bytes, *, threads: int, optimize: bool = True) -> Runner:
    """Create a session.

    Args:
        model: a file, or a serialized model.
        threads: of one operator.
        optimize: False switches all graph optimizations off, which leaves plain QDQ arithmetic in float.

    Raises:
        LampqError: onnxruntime refuses the model, or its input is not one image batch.
    """
    where = str(model) if isinstance(model, Path) else "the model"
    source = str(model) if isinstance(model, Path) else model
    try:
        session = ort.InferenceSession(
            source, session_options(threads, optimize=optimize), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's exceptions share no public base
        raise LampqError(f"onnxruntime cannot load {where}: {str(error).strip()[:500]}") from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        shapes = ", ".join(f"{i.name} {i.shape}" for i in inputs)
        raise LampqError(f"{where} does not take one batch of images (n, c, h, w), but: {shapes}")
    batch = inputs[0].shape[0]
    return Runner(
        session=session,
        input=inputs[0].name,
        outputs=tuple(o.name for o in session.get_outputs()),
        fixed_batch=batch if isinstance(batch, int) else None,
    )


def example_images(model: Path, batch: int) -> npt.NDArray[np.float32]:
    """Gaussian noise of the shape that a file takes: what kernels cost does not depend on the pixels.

    Args:
        batch: images; files with a fixed batch get theirs.

    Returns:
        (batch, c, h, w).

    Raises:
        LampqError: the file cannot be loaded, or the size of its images is not fixed.
    """
    runner = open_runner(model, threads=1, optimize=False)
    shape = runner.session.get_inputs()[0].shape[1:]
    if not all(isinstance(d, int) for d in shape):
        raise LampqError(f"{model} takes images of any size {shape}, and what a layer costs depends on it")
    images = np.random.default_rng(0).normal(size=(runner.fixed_batch or batch, *shape))
    return images.astype(np.float32)
