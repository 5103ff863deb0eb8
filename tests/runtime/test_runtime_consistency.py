"""What a report says of two files agrees with onnxruntime and NumPy alone, for random small models of every task."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lampq_onnx import api
from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan
from lampq_onnx.artifacts.task import TaskName, TaskSpec
from lampq_onnx.data import Preprocessing
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.metadata import write_metadata
from lampq_onnx.graph.model_file import save_model
from tests.converter.graphs import Builder

SIDE, WIDTH, IMAGES = 8, 24, 12
SQUARE = Preprocessing(
    size=(SIDE, SIDE),
    crop_pct=1,
    crop_mode="squash",
    interpolation="bilinear",
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    channels=3,
)
SHAPES: dict[TaskName, list[tuple[int, ...]]] = {
    "classification": [(2,), (3,), (4,)],
    "binary": [(1,)],
    "multi-label": [(1,), (2,), (4,)],
    "regression": [(1,), (2,), (4,)],
    "embedding": [(2,), (4,)],
    "segmentation": [(2, 3, 4), (4, 2, 2)],
    "binary-segmentation": [(1, 3, 4)],
    "dense-regression": [(1, 3, 4), (4, 3), (2, 2, 2)],
}
CASES = [(task, shape) for task, shapes in SHAPES.items() for shape in shapes]
CONSTANT: list[tuple[TaskName, tuple[int, ...]]] = [
    ("classification", (1,)), ("embedding", (1,)), ("segmentation", (1, 3, 4)),
]  # fmt: skip


def float_model(task: TaskName, shape: tuple[int, ...], seed: int, scale: float, offset: float) -> onnx.ModelProto:
    """Images to two layers and outputs of ``shape``, whose numbers are about ``scale`` around ``offset``."""
    b = Builder(seed)
    rows = b.op("Reshape", "images", b.ints(0, 3 * SIDE**2 // WIDTH, WIDTH))
    hidden = b.op("Relu", b.op("MatMul", rows, b.random("first.weight", WIDTH, WIDTH), name="first"))
    flat = b.op("ReduceMean", hidden, b.ints(1), keepdims=0)
    count = int(np.prod(shape))
    second = b.op("MatMul", flat, b.random("second.weight", WIDTH, count), name="second")
    second = b.op("Mul", second, b.constant("scale", 20 * scale))
    second = b.op("Add", second, b.constant("offset", offset))
    b.rename(b.op("Reshape", second, b.ints(0, *shape)), "logits")
    return b.model({"images": ["n", 3, SIDE, SIDE]}, {"logits": ["n", *shape]})


def inputs_of(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = ((pixels.astype(np.float32) / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2)
    return found


def run(path: Path, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: npt.NDArray[np.float64] = session.run(None, {"images": images})[0].astype(np.float64)
    return found


def write_files(
    folder: Path, task: TaskName, shape: tuple[int, ...], seed: int, bits: int, scale: float, offset: float
) -> None:
    """float.onnx, model.onnx and images.npz."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    labels = {"labels": np.arange(IMAGES) % min(2, shape[0] + (task == "binary"))}
    labelled = task in ("classification", "binary")
    np.savez(folder / "images.npz", images=pixels, **(labels if labelled else {}))
    model = ir.serde.deserialize_model(float_model(task, shape, seed, scale, offset))
    path = folder / "float.onnx"
    save_model(model, path)
    outputs = run(path, inputs_of(pixels))
    spread: tuple[float, ...] = ()
    if task == "regression":
        spread = tuple(map(float, outputs.std(0)))
    if task == "dense-regression":
        spread = tuple(map(float, outputs.std((0, 2, 3)))) if outputs.ndim == 4 else (float(outputs.std()),)
    write_metadata(model, "small", SQUARE, shape[0], TaskSpec(kind=task, spread=spread))
    save_model(model, path)
    layer = LayerPlan(weight_bits=bits, activation_bits=8, activation_range=ActivationRange(low=-2.0, high=2.0))
    plan = BitPlan(layers={graph_layer.name: layer for graph_layer in find_layers(model.graph)})
    assert plan.layers
    api.convert(path, plan, folder / "model.onnx", threads=1)


def agreement_of(task: TaskName, a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Counted once more, in a few lines."""
    if task in ("classification", "segmentation"):
        return float((a.argmax(1) == b.argmax(1)).mean())
    if task in ("binary", "binary-segmentation"):
        return float(((a > 0) == (b > 0)).mean())
    if task == "multi-label":
        return float(((a > 0) == (b > 0)).all(1).mean())
    if task == "embedding":
        near = []
        for values in (a, b):
            layer = values / np.linalg.norm(values, axis=1, keepdims=True)
            near.append((layer @ layer.T - 9 * np.eye(len(layer))).argmax(1))
        return float((near[0] == near[1]).mean())
    axes = (0, 2, 3) if a.ndim == 4 else None if a.ndim == 3 else 0
    return float(np.clip(1 - np.abs(a - b) / a.std(axes, keepdims=True), 0, None).mean())


@settings(
    max_examples=20, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(
    case=st.sampled_from(CASES),
    seed=st.integers(0, 1000),
    bits=st.sampled_from([2, 3, 4, 8]),
    scale=st.sampled_from([0.01, 0.1, 1.0]),
    offset=st.sampled_from([0.0, 1.0]),
)
def test_error_and_agreement_are_those_of_the_two_files(
    case: tuple[TaskName, tuple[int, ...]], seed: int, bits: int, scale: float, offset: float
) -> None:
    task, shape = case
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        write_files(folder, task, shape, seed, bits, scale, offset)
        images = inputs_of(np.load(folder / "images.npz")["images"])
        a, b = run(folder / "float.onnx", images), run(folder / "model.onnx", images)
        report = api.validate(
            folder / "model.onnx", folder / "float.onnx", folder / "images.npz", threads=1, latency_runs=1
        )
    assert report is not None
    accuracy = report.accuracy
    error = float(np.linalg.norm(a - b) / np.linalg.norm(a))
    assert accuracy.relative_error == pytest.approx(error, rel=1e-3, abs=1e-7)
    # A tie between two near neighbours may go either way.
    loose = 1 / IMAGES if task == "embedding" else 0
    assert accuracy.agreement == pytest.approx(agreement_of(task, a, b), rel=1e-3, abs=1e-3 + loose)
    if error > 0.01:
        assert accuracy.kl > 0
        assert accuracy.kl_text != "0"
        assert "100.00 %" not in accuracy.agreement_text
        if task in ("regression", "dense-regression"):
            assert accuracy.agreement < 1


@pytest.mark.parametrize(("task", "shape"), CONSTANT)
def test_validate_refuses_files_whose_score_cannot_change(
    task: TaskName, shape: tuple[int, ...], tmp_path: Path
) -> None:
    write_files(tmp_path, task, shape, 0, 3, 1.0, 0.0)
    with pytest.raises(LampqError, match=f"cannot be judged by the task {task}") as error:
        api.validate(tmp_path / "model.onnx", tmp_path / "float.onnx", tmp_path / "images.npz", threads=1)
    assert "--task" in error.value.hint
