from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan
from lampq_onnx.artifacts.report import Accuracy, TopK
from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.converter import convert_model, inspect_model
from lampq_onnx.converter.inspect import QuantizedLayer
from lampq_onnx.data import Preprocessing
from lampq_onnx.errors import LampqError
from lampq_onnx.evaluation.gates import LAYER_BOUND
from lampq_onnx.evaluation.measure import PairFigures, measure_fidelity, measure_latency
from lampq_onnx.graph.metadata import write_metadata
from lampq_onnx.graph.model_file import load_model, save_model
from lampq_onnx.quantization.activations import HEADROOM
from lampq_onnx.runtime import (
    Runner,
    compare_latency,
    describe_environment,
    layer_errors,
    open_runner,
    with_onnxruntime,
)
from lampq_onnx.runtime.environment import KERNEL_FLAGS, available_cores, cpu_flags
from lampq_onnx.runtime.latency import WARM_UP
from lampq_onnx.runtime.operators import operator_times
from lampq_onnx.runtime.profile import profile_model
from lampq_onnx.runtime.sessions import session_options
from lampq_onnx.targets import TARGETS
from lampq_onnx.workflow.ranges import BATCH, with_measured_ranges
from tests.converter.graphs import (
    LEVELS,
    Builder,
    as_ir,
    as_proto,
    constants,
    one_matmul,
    plan_for,
    run,
    session,
    vit,
    with_outputs,
)

NAMES = [
    "patch_embed.proj",
    *(f"blocks.{i}.{part}" for i in range(2) for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")),
    "head",
]


MEASURED = Accuracy(
    samples=4, **{"float": TopK(top1=1.0, top5=1.0)}, quantized=TopK(top1=1.0, top5=1.0), drop_points=0.0,
    standard_error_points=0.0, agreement=1.0, logit_sqnr_db=20.0, kl=0.1,
)  # fmt: skip


def errors_of(model: onnx.ModelProto, layers: Sequence[QuantizedLayer], x: np.ndarray) -> dict[str, float]:
    """`layer_errors` of a model in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        return layer_errors(path, layers, x, threads=1)


def images(count: int = 4) -> np.ndarray:
    return np.random.default_rng(9).normal(size=(count, 3, 4, 4)).astype(np.float32)


def quantized(bits: int = 8, packing: str = "exact", linear: str = "matmul", activation_bits: int = 8) -> tuple:
    plan = plan_for(NAMES, weight_bits=bits, activation_bits=activation_bits)
    target = TARGETS["onnxruntime-x86-avx2"]  # exact kernels on any CPU
    conversion = convert_model(as_ir(vit(linear=linear)), plan, packing=packing, target=target)
    return as_proto(conversion.model), inspect_model(conversion.model)


# layers alone


@pytest.mark.parametrize("linear", ["matmul", "gemm"])
@pytest.mark.parametrize("packing", ["exact", "native", "container"])
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_exact_kernels_have_no_layer_error(bits: int, packing: str, linear: str) -> None:
    model, layers = quantized(bits, packing, linear)
    errors = errors_of(model, layers, images())
    assert list(errors) == NAMES
    assert max(errors.values()) < 1e-5


def test_narrow_activations_have_no_layer_error() -> None:
    model, layers = quantized(4, activation_bits=3)
    assert max(errors_of(model, layers, images()).values()) < 1e-5


@pytest.mark.parametrize("linear", ["matmul", "gemm"])
@pytest.mark.parametrize("packing", ["exact", "native", "container"])
@pytest.mark.parametrize("activation_bits", [16, 32])
def test_wide_inputs_have_no_layer_error(activation_bits: int, packing: str, linear: str) -> None:
    model, layers = quantized(3, packing, linear, activation_bits)
    errors = errors_of(model, layers, images())
    assert list(errors) == NAMES
    assert max(errors.values()) < 1e-6


def test_kernels_that_round_float_inputs_are_found() -> None:
    """The textbook form of weights alone: onnxruntime fuses it to MatMulNBits."""
    weight = np.random.default_rng(0).integers(-8, 8, (64, 32)).astype(np.int8)
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=1),
            onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="fc"),
        ],
        "textbook",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 64])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3, 32])],
        [numpy_helper.from_array(weight, "q"), numpy_helper.from_array(np.ones(32, np.float32), "s")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    layers = inspect_model(as_ir(model))
    assert [(layer.name, layer.activation_bits) for layer in layers] == [("fc", 32)]
    x = np.random.default_rng(1).normal(size=(2, 3, 64)).astype(np.float32)
    assert errors_of(model, layers, x)["fc"] > LAYER_BOUND


def saturated(model: onnx.ModelProto, bound: int) -> onnx.ModelProto:
    """What a saturating kernel amounts to: 8-bit weights cut to +-``bound``."""
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".weight.quantized"):
            values = numpy_helper.to_array(tensor)
            centre = 128 if values.dtype == np.uint8 else 0
            cut = np.clip(values.astype(int) - centre, -bound, bound) + centre
            tensor.CopyFrom(numpy_helper.from_array(cut.astype(values.dtype), tensor.name))
    return model


@pytest.fixture
def wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optimized sessions of the layer blocks.1.mlp.fc1 compute something else."""

    def open_session(piece: bytes, options: ort.SessionOptions, **keys: object) -> ort.InferenceSession:
        model = onnx.ModelProto.FromString(piece)
        optimized = options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        if optimized and any(node.name == "blocks.1.mlp.fc1" for node in model.graph.node):
            piece = saturated(model, 90).SerializeToString()
        return ort.InferenceSession(piece, options, **keys)

    monkeypatch.setattr(with_onnxruntime, "ort", SimpleNamespace(InferenceSession=open_session))


@pytest.mark.usefixtures("wrong_kernel")
def test_a_wrong_kernel_is_found(tmp_path: Path) -> None:
    model, layers = quantized(8)
    errors = errors_of(model, layers, images())
    wrong = errors.pop("blocks.1.mlp.fc1")
    assert wrong > 10 * LAYER_BOUND
    assert max(errors.values()) < 1e-5
    # The size of the error, by running both versions of the layer with nothing but numpy.
    layer = next(layer for layer in layers if layer.name == "blocks.1.mlp.fc1")
    right = run(with_outputs(model, *layer.outputs), images())
    values = run(with_outputs(model, layer.input), images())
    scale = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    step, zero = scale[f"{layer.name}.input.scale"], int(scale[f"{layer.name}.input.zero_point"])
    rounded = (np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step
    integers = scale[f"{layer.name}.weight.quantized"].astype(int) - 128
    excess = rounded @ ((np.clip(integers, -90, 90) - integers) * scale[f"{layer.name}.weight.scale"])
    assert wrong == pytest.approx(np.linalg.norm(excess) / np.linalg.norm(right), rel=1e-3)

    onnx.save(model, tmp_path / "q.onnx")
    whole = PairFigures(accuracy=MEASURED, excess_error=0.01, simulation_excess=None, compared=17)
    figures = measure_fidelity(tmp_path / "q.onnx", layers, images(), whole, threads=1)
    assert figures.layer_worst == "blocks.1.mlp.fc1"
    assert figures.layer_max == pytest.approx(wrong)
    assert (figures.excess_error, figures.simulation_excess, figures.samples) == (0.01, None, 17)


def test_a_layer_that_computes_nan_has_an_infinite_error(tmp_path: Path) -> None:
    model, layers = quantized(8)
    layer = next(layer for layer in layers if layer.name == "blocks.1.mlp.fc1")
    scale = next(t for t in model.graph.initializer if t.name == f"{layer.name}.weight.scale")
    scale.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(scale), np.nan), scale.name))
    onnx.save(model, tmp_path / "q.onnx")
    errors = errors_of(model, layers, images())
    assert errors[layer.name] == np.inf
    whole = PairFigures(accuracy=MEASURED, excess_error=0.0, simulation_excess=None, compared=4)
    figures = measure_fidelity(tmp_path / "q.onnx", layers, images(), whole, threads=1)
    assert figures.layer_max is None
    assert figures.layer_worst == layer.name  # the layers behind it read its NaN


def test_no_layers(tmp_path: Path) -> None:
    onnx.save(vit(), tmp_path / "f.onnx")
    whole = PairFigures(accuracy=MEASURED, excess_error=0.0, simulation_excess=None, compared=4)
    figures = measure_fidelity(tmp_path / "f.onnx", [], images(), whole, threads=1)
    assert (figures.layer_max, figures.layer_worst) == (0.0, None)


def test_a_layer_that_cannot_be_cut_out() -> None:
    model, layers = quantized(4)
    with pytest.raises(LampqError, match=f"layer {layers[3].name} "):
        errors_of(model, [replace(layers[3], outputs=("nowhere",))], images())


# sessions


def test_runners(tmp_path: Path) -> None:
    model = vit()
    onnx.save(model, tmp_path / "f.onnx")
    wanted = run(model, images())
    for source in (tmp_path / "f.onnx", model.SerializeToString()):
        for optimize in (True, False):
            runner = open_runner(source, threads=1, optimize=optimize)
            assert (runner.input, runner.outputs, runner.fixed_batch) == ("images", ("logits",), None)
            np.testing.assert_allclose(runner(images()), wanted, rtol=1e-4, atol=1e-5)


def test_a_fixed_batch_is_fed_in_pieces() -> None:
    model = vit()
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].ClearField("dim_param")
        value.type.tensor_type.shape.dim[0].dim_value = 2
    del model.graph.value_info[:]
    runner = open_runner(model.SerializeToString(), threads=1)
    assert runner.fixed_batch == 2
    np.testing.assert_allclose(runner(images(6)), run(vit(), images(6)), rtol=1e-4, atol=1e-5)
    with pytest.raises(LampqError, match="batches of 2 images"):
        runner(images(5))


def test_files_that_do_not_take_images(tmp_path: Path) -> None:
    with pytest.raises(LampqError, match="does not take one batch of images"):
        open_runner(one_matmul(np.eye(3, dtype=np.float32)).SerializeToString(), threads=1)
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    with pytest.raises(LampqError, match=r"cannot load .*bad\.onnx"):
        open_runner(tmp_path / "bad.onnx", threads=1)


def test_session_options() -> None:
    assert session_options(3).graph_optimization_level == LEVELS[-1]
    assert session_options(3).intra_op_num_threads == 3
    assert session_options(1, optimize=False).graph_optimization_level == LEVELS[0]


# latency


class Sleeper:
    """A runner that takes the given times in turn, after warming up."""

    def __init__(self, log: list[str], name: str, *milliseconds: float) -> None:
        self.log, self.name, self.times, self.calls = log, name, milliseconds, 0

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.log.append(self.name)
        warm = self.calls >= WARM_UP
        time.sleep(self.times[(self.calls - WARM_UP) % len(self.times)] / 1e3 if warm else 0.02)
        self.calls += 1
        return batch


def test_latency_of_sleepers() -> None:
    log: list[str] = []
    slow, fast = Sleeper(log, "f", 12), Sleeper(log, "q", 4)
    result = compare_latency(slow, fast, images(2), threads=3, runs=9)
    assert slow.calls == fast.calls == WARM_UP + 9
    assert len(result.float_samples_ms) == len(result.quantized_samples_ms) == result.runs == 9
    # Sleep never ends early; a busy machine may end it late.
    assert 11.9 <= result.float_ms < 24
    assert 3.9 <= result.quantized_ms < 11
    assert result.float_ms == pytest.approx(np.median(result.float_samples_ms), abs=1e-3)
    assert result.quantized_ms == pytest.approx(np.median(result.quantized_samples_ms), abs=1e-3)
    ratios = np.array(result.float_samples_ms) / np.array(result.quantized_samples_ms)
    assert result.speedup == pytest.approx(np.median(ratios), rel=1e-3)
    assert result.speedup_quartiles == pytest.approx(tuple(np.percentile(ratios, [25, 75])), rel=1e-3)
    assert (result.threads, result.batch) == (3, 2)
    # Both in every round, with the first place in turns.
    rounds = ["".join(log[i : i + 2]) for i in range(0, len(log), 2)]
    assert set(rounds) == {"fq", "qf"}
    assert all(a != b for a, b in pairwise(rounds))


def test_one_slow_run_does_not_move_the_median() -> None:
    result = compare_latency(Sleeper([], "f", 2, 2, 60, 2, 2), Sleeper([], "q", 2), images(1), threads=1, runs=5)
    assert max(result.float_samples_ms) >= 59
    assert result.float_ms < 30


def test_latency_of_sessions() -> None:
    model, _ = quantized(4)
    runners = [open_runner(m.SerializeToString(), threads=1) for m in (vit(), model)]
    assert all(isinstance(runner, Runner) for runner in runners)
    result = compare_latency(*runners, images(1), threads=1, runs=5)
    assert result.float_ms > 0
    assert result.speedup > 0


def test_large_images_are_timed_in_sessions_as_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder()
    b.rename(b.op("GlobalAveragePool", "images"), "y")
    path = tmp_path / "model.onnx"
    onnx.save(b.model({"images": ["n", 3, "h", "w"]}, {"y": ["n", 3, 1, 1]}), path)
    pools, real = [], ort.InferenceSession

    def watched(source: object, options: ort.SessionOptions, **rest: object) -> ort.InferenceSession:
        pools.append(options.enable_cpu_mem_arena and options.enable_mem_pattern)
        return real(source, options, **rest)

    monkeypatch.setattr(ort, "InferenceSession", watched)
    large = np.zeros((1, 3, 1024, 1024), np.float32)
    measure_latency(path, path, large, threads=1, runs=1)
    operator_times(path, path, large, threads=1, runs=1)
    profile_model(path, large, threads=1, runs=1)
    assert pools == [True] * 5


# environment


def test_environment() -> None:
    environment = describe_environment("onnxruntime-x86-vnni")
    assert environment.target == "onnxruntime-x86-vnni"
    assert environment.versions["onnxruntime"] == ort.__version__
    assert environment.versions["numpy"] == np.__version__
    assert environment.python == platform.python_version()
    assert environment.cores == available_cores() >= 1
    assert set(cpu_flags()) <= set(KERNEL_FLAGS)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file() and platform.machine() == "x86_64":
        flags = next(line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")).split()
        assert ("avx2" in flags) == ("avx2" in environment.cpu_flags)
        assert any("vnni" in f for f in flags) == any("vnni" in f for f in environment.cpu_flags)


# measured ranges

CPU = TARGETS["onnxruntime-x86-avx2"]

PREPROCESSING = Preprocessing(
    size=(4, 4),
    crop_pct=1.0,
    crop_mode="center",
    interpolation="bilinear",
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.3, 0.25),
    channels=3,
)


@pytest.fixture
def calibration(tmp_path: Path) -> tuple[Path, Path, np.ndarray]:
    """A float file with metadata, an .npz of images of the model's size, and those images normalized by hand."""
    model = as_ir(vit())
    write_metadata(model, "toy", PREPROCESSING, 5)
    save_model(model, tmp_path / "float.onnx")
    pixels = np.random.default_rng(2).integers(0, 256, (2 * BATCH + 3, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels)
    prepared = (pixels / 255 - np.array(PREPROCESSING.mean)) / np.array(PREPROCESSING.std)
    return tmp_path / "float.onnx", tmp_path / "images.npz", prepared.transpose(0, 3, 1, 2).astype(np.float32)


def inputs_of(name: str, batch: np.ndarray, linear: str = "matmul") -> np.ndarray:
    """What a layer of the float model reads, image by image, without optimizations."""
    model = vit(linear=linear)
    node = next(node for node in model.graph.node if node.name == "/" + name.replace("patch_embed.", "patch_embed/"))
    if node.input[0] == "images":
        return batch
    return np.concatenate(
        [session(with_outputs(model, node.input[0])).run(None, {"images": b[None]})[0] for b in batch]
    )


def test_measured_ranges(calibration: tuple[Path, Path, np.ndarray]) -> None:
    path, source, batch = calibration
    given = ActivationRange(low=-9.0, high=9.0, method="given")
    layers = {name: LayerPlan(weight_bits=4, activation_bits=8) for name in NAMES}
    layers["head"] = layers["head"].model_copy(update={"activation_range": given})
    unread = {"blocks.0.mlp.fc1": 32, "blocks.1.mlp.fc2": 4}
    layers |= {name: LayerPlan(weight_bits=bits, activation_bits=32) for name, bits in unread.items()}
    layers["blocks.0.mlp.fc2"] = LayerPlan(weight_bits=4, activation_bits=16)
    plan = BitPlan(layers=layers)
    measured = with_measured_ranges(
        load_model(path), path, plan, ImageOptions(calibration=source, calibration_size=1000), CPU, threads=1
    )
    assert list(measured.layers) == NAMES
    assert measured.layers["head"].activation_range == given
    assert all(measured.layers[name].activation_range is None for name in unread)
    assert plan.layers["blocks.0.attn.qkv"].activation_range is None
    for name in set(NAMES) - {"head", *unread}:
        values = inputs_of(name, batch)
        found = measured.layers[name].activation_range
        assert found is not None
        assert found.method == "minmax"
        room = HEADROOM if measured.layers[name].activation_bits == 16 else 1
        assert found.low == pytest.approx(room * float(values.min()), rel=1e-4, abs=1e-5)
        assert found.high == pytest.approx(room * float(values.max()), rel=1e-4, abs=1e-5)
        assert measured.layers[name].weight_bits == 4
    convert_model(load_model(path), measured, target=TARGETS["onnxruntime-x86-avx2"])


def test_the_mean_can_be_overridden(calibration: tuple[Path, Path, np.ndarray]) -> None:
    path, source, batch = calibration
    plan = BitPlan(layers={"patch_embed.proj": LayerPlan(weight_bits=8, activation_bits=8)})
    options = ImageOptions(calibration=source, calibration_size=1000, mean=(0.0,) * 3, std=(1.0,) * 3)
    found = with_measured_ranges(load_model(path), path, plan, options, CPU, threads=1).layers["patch_embed.proj"]
    mean, std = np.array(PREPROCESSING.mean)[:, None, None], np.array(PREPROCESSING.std)[:, None, None]
    pixels = batch * std + mean
    assert found.activation_range is not None
    assert found.activation_range.low == pytest.approx(pixels.min(), abs=1e-6)
    assert found.activation_range.high == pytest.approx(pixels.max(), rel=1e-6)


def test_nothing_to_measure_needs_no_images(calibration: tuple[Path, Path, np.ndarray]) -> None:
    path, _, _ = calibration
    plan = BitPlan(layers={"head": LayerPlan(weight_bits=4, activation_bits=32)})
    assert with_measured_ranges(load_model(path), path, plan, ImageOptions(), CPU, threads=1) is plan


def test_ranges_without_images(calibration: tuple[Path, Path, np.ndarray]) -> None:
    path, _, _ = calibration
    plan = BitPlan(layers={name: LayerPlan(weight_bits=8, activation_bits=8) for name in NAMES[:2]})
    with pytest.raises(LampqError, match=r"2 layer\(s\): patch_embed\.proj, blocks\.0\.attn\.qkv"):
        with_measured_ranges(load_model(path), path, plan, ImageOptions(), CPU, threads=1)


def test_ranges_of_a_file_without_preprocessing(calibration: tuple[Path, Path, np.ndarray], tmp_path: Path) -> None:
    _, source, _ = calibration
    onnx.save(vit(), tmp_path / "foreign.onnx")
    plan = BitPlan(layers={"head": LayerPlan(weight_bits=8, activation_bits=8)})
    model = load_model(tmp_path / "foreign.onnx")
    with pytest.raises(LampqError, match="how to prepare images"):
        with_measured_ranges(model, tmp_path / "foreign.onnx", plan, ImageOptions(calibration=source), CPU, threads=1)


@pytest.mark.parametrize("linear", ["matmul", "gemm"])
def test_products_are_measured_before_their_bias_where_the_target_needs_them(tmp_path: Path, linear: str) -> None:
    model = as_ir(vit(linear=linear))
    write_metadata(model, "toy", PREPROCESSING, 5)
    path = tmp_path / "float.onnx"
    save_model(model, path)
    pixels = np.random.default_rng(3).integers(0, 256, (BATCH + 1, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels)
    given = ActivationRange(low=-4.0, high=4.0)
    names = ["patch_embed.proj", "blocks.1.mlp.fc1", "head"]
    plan = BitPlan(
        layers={
            **{name: LayerPlan(weight_bits=4, activation_bits=16, activation_range=given) for name in names},
            "blocks.0.attn.qkv": LayerPlan(
                weight_bits=8, activation_bits=8, activation_range=given, output_range=given
            ),
        }
    )
    options = ImageOptions(calibration=tmp_path / "images.npz", calibration_size=1000)
    found = with_measured_ranges(load_model(path), path, plan, options, TARGETS["onnxruntime-qnn"], threads=1)
    assert with_measured_ranges(load_model(path), path, plan, ImageOptions(), CPU, threads=1) is plan
    prepared = (pixels / 255 - np.array(PREPROCESSING.mean)) / np.array(PREPROCESSING.std)
    batch = prepared.transpose(0, 3, 1, 2).astype(np.float32)
    weights = constants(vit(linear=linear))
    for name in names:
        values = inputs_of(name, batch, linear)
        if name == "patch_embed.proj":
            kernel = weights[f"{name}.weight"]
            patches = values.reshape(len(batch), 3, 2, 2, 2, 2).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 12)
            product = patches @ kernel.reshape(len(kernel), -1).T
        else:
            matrix = weights[f"{name}.weight"]
            product = values @ (matrix if linear == "matmul" else matrix.T)
        measured = found.layers[name].output_range
        assert measured is not None
        widest = (HEADROOM * product.min(), HEADROOM * product.max())
        assert (measured.low, measured.high) == pytest.approx(widest, rel=1e-4)
    assert found.layers["blocks.0.attn.qkv"] == plan.layers["blocks.0.attn.qkv"]
    convert_model(load_model(path), found, target=TARGETS["onnxruntime-qnn"])
    with pytest.raises(LampqError, match=r"no output_range for 3 layer\(s\): patch_embed\.proj"):
        with_measured_ranges(load_model(path), path, plan, ImageOptions(), TARGETS["onnxruntime-qnn"], threads=1)
