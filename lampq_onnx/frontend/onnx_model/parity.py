"""Checks that a module, and the graph written from it, compute the same as the file does in onnxruntime."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from lampq_onnx.artifacts.task import BOXES
from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.onnx_model.model import OnnxModel
from lampq_onnx.graph.model_file import save_model
from lampq_onnx.importer import Imported
from lampq_onnx.measures.pairing import in_order_of
from lampq_onnx.runtime import open_session

PARITY_BOUND = 1e-4
"""Largest relative difference (L2) between two ways to compute the outputs that float rounding explains."""

HALF_BOUND = 2e-2
"""Largest relative difference (L2) if the file computes in half precision; we compute in float32."""

IMAGES = 4

_TYPES = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}
"""Types of masks, by onnxruntime's names."""

Arrays = list[npt.NDArray[np.float64]]


def require_parity(
    model: OnnxModel, graph: ir.Model, path: Path, imported: Imported, shape: tuple[int, int, int]
) -> float:
    """Compare the file, the module and the graph in normal form on random images (channels, height, width).

    Returns:
        The largest relative difference (L2) of an output of the module.

    Raises:
        LampqError: a difference is larger than rounding explains.
    """
    fixed = imported.fixed_batch
    count = IMAGES if fixed is None else -(-IMAGES // fixed) * fixed
    images = np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)
    names = list(model.outputs)
    if imported.form.pixels:
        images = np.random.default_rng(0).integers(0, 256, images.shape).astype(np.float32)
    wanted = _run(path, imported.form.fed(images), names, fixed)
    with torch.no_grad():
        found = model(torch.from_numpy(images))
    ours = [value.double().numpy() for value in (found if isinstance(found, tuple) else (found,))]
    bound = HALF_BOUND if imported.half else PARITY_BOUND
    worst = _require_close("in PyTorch", names, ours, wanted, bound, path, imported)
    with tempfile.TemporaryDirectory(prefix="lampq-") as room:
        written = Path(room) / "normal.onnx"
        save_model(graph, written)
        _require_close("in normal form", names, _run(written, images, names, None), ours, PARITY_BOUND, path, imported)
    return worst


def _run(path: Path, images: npt.NDArray[np.generic], names: Sequence[str], step: int | None) -> Arrays:
    session = open_session(path, threads=torch.get_num_threads())
    image = next(value for value in session.get_inputs() if len(value.shape) == images.ndim)
    masks = {value.name: _TYPES[value.type] for value in session.get_inputs() if value is not image}
    pieces = [images[i : i + (step or len(images))] for i in range(0, len(images), step or len(images))]
    try:
        results = [session.run(list(names), {image.name: piece, **_whole(masks, piece)}) for piece in pieces]
    except Exception as error:  # onnxruntime's exceptions share no public base class
        raise LampqError(f"onnxruntime cannot run {path}: {str(error).strip()[:300]}") from error
    for name, value in zip(names, results[0], strict=True):
        if not isinstance(value, np.ndarray) or value.shape[:1] != pieces[0].shape[:1]:
            shape = list(value.shape) if isinstance(value, np.ndarray) else type(value).__name__
            raise LampqError(
                f"{path}: the output {name} has the shape {shape} for {len(pieces[0])} images",
                hint="the first dimension of an output must be the number of images",
            )
    return [np.concatenate(parts).astype(np.float64) for parts in zip(*results, strict=True)]


def _whole(masks: Mapping[str, type[np.generic]], images: npt.NDArray[np.generic]) -> dict[str, npt.NDArray[Any]]:
    """Masks of images without padding, by the name of their input."""
    size = images.shape[1:3] if images.shape[-1] < images.shape[1] else images.shape[2:]
    return {name: np.ones((len(images), *size), kind) for name, kind in masks.items()}


def _arranged(names: Sequence[str], found: Arrays, wanted: Arrays) -> Arrays:
    """The outputs of a detector with their queries in the wanted order: it may have sorted them by scores."""
    if BOXES not in names or any(value.ndim != 3 for value in (*found, *wanted)):
        return found
    places = np.cumsum([value.shape[-1] for value in found])[:-1]
    joined = in_order_of(np.concatenate(wanted, -1), np.concatenate(found, -1))
    return np.split(np.asarray(joined, np.float64), places, -1)


def _require_close(
    where: str, names: Sequence[str], found: Arrays, wanted: Arrays, bound: float, path: Path, imported: Imported
) -> float:
    worst = 0.0
    for name, ours, theirs in zip(names, _arranged(names, found, wanted), wanted, strict=True):
        size = max(float(np.linalg.norm(theirs)), 1e-30)
        change = float(np.linalg.norm(ours - theirs)) / size if ours.shape == theirs.shape else float("inf")
        if change <= bound:
            worst = max(worst, change)
            continue
        if imported.fixed_batch is not None:
            raise LampqError(
                f"{path} takes {imported.fixed_batch} image(s) at once, and its graph does not give the same results "
                f"for other numbers of images (output {name}: relative difference {change:.1e})",
                hint="export it with a dynamic batch dimension",
            )
        raise LampqError(
            f"the output {name} of {path} {where} differs from onnxruntime's by {change:.1e} (relative; bound "
            f"{bound:.0e}): an operator is computed differently",
            hint="quantize the PyTorch model itself, if there is one",
        )
    return worst
