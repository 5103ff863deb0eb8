"""Load files in onnxruntime's QNN provider, and print where each node runs and whether the answers are right.

    python -m tools.bench.qnn out/model.onnx
    python -m tools.bench.qnn out/model.onnx --images images/val --count 64 --layers

Needs `pip install onnxruntime-qnn`, whose x86-64 wheel has a software HTP; an environment of its own is best. The
software HTP shows what loads, what runs as integers and what is right. It says nothing about speed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from lampq_onnx.converter import inspect_model
from lampq_onnx.data import choose, iter_batches, open_source
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.metadata import read_metadata
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.runtime.fidelity import cut_layers
from lampq_onnx.runtime.qnn import run_on_qnn
from lampq_onnx.runtime.sessions import open_runner, open_session

Array = npt.NDArray[np.float32]

HALF = 2.0**-10
"""Share of the largest value that float16, in which the NPU adds the bias, may move any value."""


@dataclass(frozen=True)
class Row:
    """What the provider did with one file.

    Attributes:
        file: the file.
        runtime: versions of the provider.
        refused: why it does not load; empty: it does.
        partitions: parts of the graph that the NPU runs.
        placed: provider -> operator -> number of nodes.
        dequantized: weights that the CPU dequantizes at every run.
        images: number of images.
        error: relative L2 error of the outputs against the file's own QDQ arithmetic on the CPU.
        same: share of images whose largest output is that of the QDQ arithmetic.
        same_as_float: share of images whose largest output is that of the float file, if it is given.
        own_error: relative L2 error of the file's own arithmetic against the float file, if it is given: what the
            file itself loses, beside which ``error`` is to be seen.
        layers: layer -> relative L2 error against its own arithmetic on the same input; empty: not measured.
        levels: layer -> by how many levels of its product it differs at most, beyond `HALF`. A product on the boundary
            of two levels may fall to either of them, so up to 1 is right. Of 16-bit products, 32 levels count as one,
            the step of float16 at the largest; the HTP adds up W4/A16 with about 5 levels less than there are.
    """

    file: str
    runtime: str = ""
    refused: str = ""
    partitions: int = 0
    placed: dict[str, dict[str, int]] = field(default_factory=dict)
    dequantized: tuple[str, ...] = ()
    images: int = 0
    error: float = float("nan")
    same: float = float("nan")
    same_as_float: float = float("nan")
    own_error: float = float("nan")
    layers: dict[str, float] = field(default_factory=dict)
    levels: dict[str, float] = field(default_factory=dict)


def images_for(path: Path, source: Path | None, count: int) -> Array:
    """Prepared images for a file, or Gaussian noise of its size if there is no source, (count, c, h, w)."""
    if source is None:
        shape = open_runner(path, threads=1, optimize=False).session.get_inputs()[0].shape[1:]
        return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)
    if source.suffix == ".npy":
        prepared: Array = np.load(source)[:count]
        return prepared
    facts = read_metadata(load_model(path), path)
    opened = open_source(source, num_classes=facts.num_classes, need_labels=False)
    batches = iter_batches(choose(opened, count, 0), facts.preprocessing, count)
    return np.concatenate([batch.images for batch in batches])


def row_of(path: Path, images: Array, *, layers: bool, reference: Path | None = None) -> Row:
    """Run a file in the provider and in its own QDQ arithmetic on the CPU."""
    try:
        found = run_on_qnn(path, images)
    except LampqError as error:
        return Row(str(path), versions(), refused=error.message)
    plain = open_runner(path, threads=1, optimize=False)(images)
    wanted = plain if reference is None else open_runner(reference, threads=1)(images)
    errors = layer_errors(path, images[:1]) if layers else {}
    missing = float("nan")
    return Row(
        file=str(path),
        runtime=versions(),
        partitions=found.partitions,
        placed={provider: dict(own) for provider, own in found.placed.items()},
        dequantized=found.dequantized,
        images=len(images),
        error=_relative(found.outputs, plain),
        same=float(np.mean(_answers(found.outputs) == _answers(plain))),
        same_as_float=missing if reference is None else float(np.mean(_answers(found.outputs) == _answers(wanted))),
        own_error=missing if reference is None else _relative(plain, wanted),
        layers={name: relative for name, (relative, _) in errors.items()},
        levels={name: levels for name, (_, levels) in errors.items()},
    )


def layer_errors(path: Path, images: Array) -> dict[str, tuple[float, float]]:
    """Relative L2 error of each layer alone, and its largest difference in levels, see `Row`.

    The provider against plain QDQ arithmetic, on the same input.
    """
    listed = inspect_model(load_model(path))
    errors = {}
    for layer, (piece, values) in zip(listed, cut_layers(path, listed, images, threads=1), strict=True):
        size = piece.graph.input[0].type.tensor_type.shape.dim[0]
        size.dim_value = len(values)
        data = onnx.shape_inference.infer_shapes(piece).SerializeToString()
        plain = plain_outputs(data, layer.input, values)
        found = run_on_qnn(data, values).outputs
        scales = {t.name: numpy_helper.to_array(t) for t in piece.graph.initializer}
        level = float(scales[f"{layer.name}.product.scale"])
        level *= 32 if scales[f"{layer.name}.product.zero_point"].dtype == np.uint16 else 1
        beyond = float(np.abs(found - plain).max()) - HALF * float(np.abs(plain).max())
        errors[layer.name] = _relative(found, plain), max(beyond, 0.0) / level
    return errors


def plain_outputs(data: bytes, name: str, values: Array) -> Array:
    """First output of a serialized model in plain QDQ arithmetic."""
    return np.asarray(open_session(data, threads=1, optimize=False).run(None, {name: values})[0])


def versions() -> str:
    """Names and versions of onnxruntime and its provider."""
    found = [f"{name} {importlib.metadata.version(name)}" for name in ("onnxruntime", "onnxruntime-qnn")]
    return f"{', '.join(found)}, software HTP"


def _answers(outputs: Array) -> npt.NDArray[np.intp]:
    return outputs.argmax(-1)


def _relative(found: Array, wanted: Array) -> float:
    return float(np.linalg.norm(found - wanted) / max(float(np.linalg.norm(wanted)), 1e-30))


def print_row(row: Row) -> None:
    """Print a row in words."""
    print(row.file)
    if row.refused:
        print(f"  refused: {row.refused}")
        return
    for provider, own in row.placed.items():
        print(f"  {provider}: {', '.join(f'{count} {operator}' for operator, count in own.items())}")
    print(f"  partitions of the NPU: {row.partitions}; weights dequantized on the CPU: {len(row.dequantized)}")
    print(f"  against its own QDQ arithmetic (n = {row.images}): error {row.error:.1e}, same answer {row.same:.1%}")
    if row.same_as_float == row.same_as_float:
        print(f"  answers of the float file: {row.same_as_float:.1%}; error of its own arithmetic: {row.own_error:.1e}")
    if row.layers:
        worst = max(row.layers, key=lambda name: row.layers[name])
        print(f"  worst of {len(row.layers)} layers alone: {worst}, {row.layers[worst]:.1e}")
        worst = max(row.levels, key=lambda name: row.levels[name])
        print(f"  most levels of a product that a layer alone is off: {worst}, {row.levels[worst]:.2f} (1 is right)")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument(
        "--images", type=Path, help="folder or .npz of images, or .npy of prepared ones; default: noise"
    )
    parser.add_argument("--float", type=Path, help="the float file, whose answers are compared")
    parser.add_argument("--count", type=int, default=8, help="number of images (default 8)")
    parser.add_argument("--layers", action="store_true", help="also run each layer alone")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    asked = parser.parse_args(arguments)
    rows = [
        row_of(path, images_for(path, asked.images, asked.count), layers=asked.layers, reference=asked.float)
        for path in asked.files
    ]
    if asked.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    print(f"{versions()} on {platform.machine()}")
    for row in rows:
        print_row(row)


if __name__ == "__main__":
    main()
