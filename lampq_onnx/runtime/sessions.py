"""Sessions with one image input, in any runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from lampq_onnx.errors import LampqError, is_out_of_memory
from lampq_onnx.runtime.engine import ONNXRUNTIME, Engine, Precision
from lampq_onnx.runtime.runtimes import runtime_of

SILENT = 3
"""onnxruntime's log level for errors only; every failure is raised too."""


@dataclass(frozen=True)
class Runner:
    """A session with the names of its image input and its outputs.

    Attributes:
        session: the session, see `protocol.Session`.
        input: name of the image input.
        outputs: names of all outputs.
        fixed_batch: batch size that the file prescribes; None: any.
        answers: names of the outputs that are returned, in order.
        where: the file, for messages.
        runtime: the runtime, for messages.
    """

    session: Any
    input: str
    outputs: tuple[str, ...]
    fixed_batch: int | None
    answers: tuple[str, ...]
    where: str = "the model"
    runtime: str = "onnxruntime"

    def __call__(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Run a batch (n, c, h, w) and return the outputs, joined; files with a fixed batch are fed in pieces of it.

        Raises:
            LampqError: the runtime fails on the images, or the file does not give floating-point numbers for each
                image.
        """
        found = [self._run(piece) for piece in batches_for(self.session, images, self.where)]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _run(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        try:
            found = self.session.run(list(self.answers), {self.input: images})
        except Exception as error:  # exceptions of runtimes have no common public base
            if is_out_of_memory(error):
                raise
            raise LampqError(
                f"{self.runtime} cannot run {self.where} on images {list(images.shape)}: {str(error).strip()[:500]}"
            ) from error
        for name, values in zip(self.answers, found, strict=True):
            if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
                kind = values.dtype.name if isinstance(values, np.ndarray) else type(values).__name__
                raise LampqError(f"{self.where}: the output {name} is of type {kind}, not of floating-point numbers")
            if values.shape[:1] != images.shape[:1]:
                raise LampqError(
                    f"{self.where}: the output {name} has the shape {list(values.shape)} for {len(images)} images",
                    hint="the first dimension must be the number of images",
                )
        if len({values.shape[:-1] for values in found}) > 1:
            found = [values.reshape(len(images), -1) for values in found]
        return np.asarray(found[0]) if len(found) == 1 else np.concatenate(found, axis=-1)


FLOAT_INPUTS = {"session.qdq_matmulnbits_accuracy_level": "1"}
"""Session setting with which MatMulNBits, which weights in blocks become, keeps its input in float32."""


def session_options(threads: int, *, optimize: bool = True, precision: Precision = "auto", lean: bool = False) -> Any:
    """Make the session options used everywhere: the given number of threads, all optimizations or none.

    With the precision f32, inputs in float stay in float32. By default, MatMulNBits rounds them to 8 bits on a CPU.

    A file that is not optimized unpacks its weights in every run and keeps every tensor of its QDQ arithmetic apart, so
    it runs without onnxruntime's pool, which would keep the largest of all of them. A lean session does too: it keeps
    no memory between two runs. Sessions whose time is measured are never lean, whatever the size of the images.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = SILENT
    options.enable_cpu_mem_arena = options.enable_mem_pattern = optimize and not lean
    levels = ort.GraphOptimizationLevel
    for name, value in FLOAT_INPUTS.items() if precision == "f32" else ():
        options.add_session_config_entry(name, value)
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    return options


def batches_for(session: Any, images: npt.NDArray[np.float32], where: str) -> list[npt.NDArray[np.float32]]:
    """Divide images (n, ...) into batches that a session takes: all at once, or as many as its file prescribes.

    Args:
        session: the session, see `protocol.Session`.
        images: the images.
        where: the file, for the message.

    Raises:
        LampqError: the images cannot be divided into such batches.
    """
    size = session.get_inputs()[0].shape[0]
    if not isinstance(size, int):
        return [images]
    if size < 1 or len(images) % size:
        raise LampqError(f"{where} takes batches of {size} images, and {len(images)} is not a multiple of that")
    return [images[start : start + size] for start in range(0, len(images), size)]


def _named(model: Path | bytes) -> str:
    return str(model) if isinstance(model, Path) else "the model"


def open_session(
    model: Path | bytes, *, threads: int, optimize: bool = True, engine: Engine = ONNXRUNTIME, lean: bool = False
) -> Any:
    """Open a session for a model of any inputs and outputs.

    Args:
        model: a file, or a serialized model.
        threads: threads of one operator.
        optimize: see `open_runner`.
        engine: what runs the model.

    Raises:
        LampqError: the runtime is missing, or refuses the model.
    """
    return runtime_of(engine.runtime).open(
        model, threads=threads, precision=engine.precision, optimize=optimize, lean=lean
    )


def open_runner(
    model: Path | bytes,
    *,
    threads: int,
    optimize: bool = True,
    answers: Sequence[str] = (),
    engine: Engine = ONNXRUNTIME,
    lean: bool = False,
) -> Runner:
    """Open a session for a model.

    Args:
        model: a file, or a serialized model.
        threads: threads of one operator.
        answers: outputs to return; none: the first one. Several are joined along their last axis, or flattened first if
            their other axes differ.
        optimize: False switches all graph optimizations off, which leaves plain QDQ arithmetic in float.
        engine: what runs the model.
        lean: keep no memory between two runs, see `session_options`; not for measurements of time.

    Raises:
        LampqError: the runtime refuses the model, or its input is not one image batch.
    """
    where = _named(model)
    session = open_session(model, threads=threads, optimize=optimize, engine=engine, lean=lean)
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        shapes = ", ".join(f"{i.name} {i.shape}" for i in inputs)
        raise LampqError(f"{where} does not take one batch of images (n, c, h, w), but: {shapes or 'nothing'}")
    if inputs[0].type != "tensor(float)":
        raise LampqError(
            f"{where} takes images of type {inputs[0].type}, and float32 images are fed",
            hint="export it with a float32 input",
        )
    if any(isinstance(d, int) and d < 1 for d in inputs[0].shape):
        raise LampqError(f"{where} takes images of shape {inputs[0].shape}, which no image has")
    outputs = tuple(output.name for output in session.get_outputs())
    missing = [name for name in answers if name not in outputs]
    if missing and len(answers) > 1:
        raise LampqError(f"{where} has no output {missing[0]} (it has: {', '.join(outputs)})")
    if not outputs:
        raise LampqError(f"{where} has no output")
    batch = inputs[0].shape[0]
    return Runner(
        session=session,
        input=inputs[0].name,
        outputs=outputs,
        fixed_batch=batch if isinstance(batch, int) else None,
        answers=outputs[:1] if missing or not answers else tuple(answers),
        where=where,
        runtime=runtime_of(engine.runtime).words,
    )


def example_images(model: Path, batch: int) -> npt.NDArray[np.float32]:
    """Make Gaussian noise of the shape that a file takes: the time of kernels does not depend on the pixels.

    Args:
        model: the file.
        batch: number of images; a fixed batch of the file takes precedence.

    Returns:
        (batch, c, h, w), float32.

    Raises:
        LampqError: the file cannot be loaded, or the size of its images is not fixed.
    """
    runner = open_runner(model, threads=1, optimize=False)
    shape = runner.session.get_inputs()[0].shape[1:]
    if not all(isinstance(d, int) for d in shape):
        raise LampqError(f"{model} takes images of any size {shape}, but the time of a layer depends on the size")
    images = np.random.default_rng(0).normal(size=(runner.fixed_batch or batch, *shape))
    return images.astype(np.float32)
