"""Read inner tensors of a file while it runs."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lampq_onnx.errors import LampqError, is_out_of_memory
from lampq_onnx.graph.model_file import load_model, save_model
from lampq_onnx.measures.error_meter import ErrorMeter
from lampq_onnx.running.memory import give_back
from lampq_onnx.runtime.sessions import batches_for, open_runner

Array = npt.NDArray[np.float32]


def tensor_names(path: Path) -> set[str]:
    """Return the names of all tensors that the file's nodes write."""
    return {value.name for node in load_model(path).graph for value in node.outputs if value.name}


@dataclass(frozen=True)
class InnerTensors:
    """A file that is open for its inner tensors.

    Attributes:
        run: images (n, c, h, w) -> values by the names of the tensors.
        batch: number of images that the file prescribes for a run; None: any.
    """

    run: Callable[[Array], dict[str, Array]]
    batch: int | None


@contextmanager
def open_tensors(path: Path, names: Sequence[str], *, threads: int) -> Iterator[InnerTensors]:
    """Open a file so that it returns the values of inner tensors.

    Args:
        path: the file.
        names: tensors that nodes write, without repetition.
        threads: threads of one operator.

    Raises:
        LampqError: the file lacks a name, or onnxruntime refuses it.
    """
    model = load_model(path)
    values = {value.name: value for node in model.graph for value in node.outputs}
    unknown = [name for name in names if name not in values]
    if unknown:
        raise LampqError(f"{path} has no tensor {unknown[0]}")
    present = {value.name for value in model.graph.outputs}
    model.graph.outputs.extend(values[name] for name in names if name not in present)
    with tempfile.TemporaryDirectory(prefix="lampq-") as room:
        file = Path(room) / "tensors.onnx"
        save_model(model, file)
        del model, values  # its weights are in the session
        runner = open_runner(file, threads=threads, lean=True)
        give_back()

        def run(images: Array) -> dict[str, Array]:
            batches = batches_for(runner.session, images, str(path))
            try:
                parts = [runner.session.run(list(names), {runner.input: batch}) for batch in batches]
            except Exception as error:  # onnxruntime's exceptions have no common public base
                if is_out_of_memory(error):
                    raise
                raise LampqError(f"onnxruntime cannot run {path}: {str(error).strip()[:500]}") from error
            found = parts[0] if len(parts) == 1 else [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]
            return dict(zip(names, found, strict=True))

        yield InnerTensors(run, runner.fixed_batch)


def compare_tensors(
    reference: Path,
    quantized: Path,
    names: Mapping[str, str],
    images: Array,
    *,
    threads: int,
    row: int | None = None,
) -> Mapping[str, ErrorMeter]:
    """Measure signal and error of inner tensors that two files share; each file computes with its own values.

    Args:
        reference: the float file.
        quantized: the quantized file.
        names: tensor of the quantized file -> the same tensor of the reference.
        images: (n, c, h, w). Values of one image are in memory at once, or of as many as the files prescribe for a run;
            the last run of such files repeats images.
        threads: threads of one operator.
        row: index of the one row that the quantized file keeps along an axis, if it does.

    Returns:
        Meters by the tensors of the quantized file.

    Raises:
        LampqError: a file lacks a name or is refused, or a tensor has another shape in the two files.
    """
    errors = {name: ErrorMeter() for name in names}
    if not names:
        return errors
    with (
        open_tensors(reference, list(dict.fromkeys(names.values())), threads=threads) as wanted,
        open_tensors(quantized, list(names), threads=threads) as found,
    ):
        batch = math.lcm(wanted.batch or 1, found.batch or 1)
        for start in range(0, len(images), batch):
            piece = images[start : start + batch]
            piece = piece if len(piece) == batch else np.resize(piece, (batch, *piece.shape[1:]))
            left, right = wanted.run(piece), found.run(piece)
            for name, original in names.items():
                whole, part = left[original], right[name]
                kept = _in_rows(whole if row is None else _narrowed(whole, part.shape, row), part.shape)
                if kept.shape != part.shape:
                    raise LampqError(
                        f"the tensor {name} is {whole.shape} in {reference} and {part.shape} in {quantized}"
                    )
                errors[name].add(kept, part)
            del left, right, whole, part, kept  # before the next images run
    return errors


def _in_rows(whole: Array, shape: tuple[int, ...]) -> Array:
    """Return values in rows if ``shape`` has their last dimension alone (the pass `StayInRows`)."""
    joined = whole.ndim > 2 == len(shape) and whole.shape[-1] == shape[-1] and whole.size == np.prod(shape)
    return whole.reshape(shape) if joined else whole


def _narrowed(whole: Array, shape: tuple[int, ...], row: int) -> Array:
    """Take one row of the axis on which ``shape`` has size one, if that is the only difference."""
    differing = [axis for axis, (a, b) in enumerate(zip(whole.shape, shape, strict=False)) if a != b]
    if whole.ndim != len(shape) or len(differing) != 1 or shape[differing[0]] != 1:
        return whole
    return whole.take([row], axis=differing[0])
