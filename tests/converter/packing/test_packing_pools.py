"""Layers whose output channels differ in width: what they take, and that nothing about their numbers changes."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from lampq_onnx.artifacts import ActivationRange, BitPlan, ChannelWidths, LayerPlan
from lampq_onnx.converter import convert_model, inspect_model
from lampq_onnx.converter.convert import Conversion
from lampq_onnx.converter.embedded import embedded_plan
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.graph.keys import CHANNEL_CLASSES_KEY, PLAN_KEY
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.quantization import QuantizedWeight
from lampq_onnx.quantization.pools import class_bits, pool_bytes, pools_of
from lampq_onnx.targets import TARGETS
from tests.converter.graphs import (
    LEVELS,
    Builder,
    as_ir,
    as_proto,
    constants,
    kernels,
    measured,
    one_matmul,
    plan_for,
    reference,
    run,
    session,
    vit,
    with_outputs,
)
from tests.converter.packing.test_packing_storage import plain_qdq

RANGE = ActivationRange(low=-3.0, high=2.5)
FOLDING = [name for name, target in TARGETS.items() if target.folds and not target.weights_only]
ORT = [name for name in FOLDING if name.startswith("onnxruntime")]


def mixed(rows: np.ndarray, activation_bits: int = 8) -> LayerPlan:
    widths = ChannelWidths.from_rows(rows)
    return LayerPlan(
        weight_bits=widths.widest,
        activation_bits=activation_bits,
        channel_widths=widths,
        activation_range=RANGE,
        output_range=RANGE,
    )


def branches(shapes: list[tuple[int, int]], seed: int) -> onnx.ModelProto:
    """One product for each (outputs, inputs), on the first numbers of x; their results side by side."""
    b = Builder(seed)
    widest = max(inputs for _, inputs in shapes)
    results = []
    for at, (outputs, inputs) in enumerate(shapes):
        x = b.op("Slice", "x", b.ints(0), b.ints(inputs), b.ints(2))
        results.append(b.op("MatMul", x, b.random(f"l{at}.weight", inputs, outputs)))
    b.rename(b.op("Concat", *results, axis=2), "y")
    return b.model({"x": ["n", 2, widest]}, {"y": ["n", 2, sum(outputs for outputs, _ in shapes)]})


def convert(
    model: onnx.ModelProto, plan: BitPlan, target: str, packing: str = "exact", **options: object
) -> Conversion:
    return convert_model(measured(model), plan, packing=packing, target=TARGETS[target], **options)  # type: ignore[arg-type]


def weights_read(model: onnx.ModelProto) -> list[str]:
    return [node.input[1] for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]


def promised(weights: list[QuantizedWeight]) -> int:
    """Bytes of one pool, counted by width and grid, with the numbers of the classes."""
    counts: dict[tuple[int, bool], int] = {}
    for weight in weights:
        for bits, rise in zip(weight.row_bits().tolist(), weight.row_rises().tolist(), strict=True):
            counts[bits, rise] = counts.get((bits, rise), 0) + 1
    inputs = weights[0].codes.shape[1]
    total = 0
    for (bits, _), rows in counts.items():
        fields = (8,) if bits == 8 else tuple(width for width in (4, 2, 1) if bits & width)
        total += sum(-(-rows * inputs * width // 8) for width in fields)
    ids = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,)}[class_bits(len(counts))]
    return total + sum(-(-sum(counts.values()) * width // 8) for width in ids)


def stored(model: onnx.ModelProto) -> dict[str, int]:
    """Pool -> bytes of its packed rows and numbers."""
    found: dict[str, int] = {}
    for name, array in constants(model).items():
        place = re.fullmatch(r"(channels\.\d+)\.(ids|b\d+r?)(\.bits\d(\.\d)?)?", name)
        if place is not None:
            found[place[1]] = found.get(place[1], 0) + array.nbytes
    return found


SETS = [widths for size in (2, 3, 4) for widths in combinations(range(1, 9), size)]


@given(
    st.lists(st.tuples(st.integers(2, 21), st.sampled_from((1, 3, 8, 12, 16, 17))), min_size=1, max_size=3),
    st.lists(st.sampled_from(SETS), min_size=3, max_size=3),
    st.sampled_from(FOLDING),
    st.integers(0, 2**16),
)
@settings(max_examples=12, deadline=None, derandomize=True)
def test_any_mix_is_the_plain_graph(
    shapes: list[tuple[int, int]], sets: list[tuple[int, ...]], target: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    model = branches(shapes, seed)
    layers, rows = {}, {}
    for at, (outputs, _) in enumerate(shapes):
        rows[f"l{at}"] = rng.choice(sets[at], outputs)
        rows[f"l{at}"][:2] = sets[at][:2]
        layers[f"l{at}"] = mixed(rows[f"l{at}"])
    conversion = convert(model, BitPlan(layers=layers), target)
    file = as_proto(conversion.model)
    weights = {name: numbers.weight for name, numbers in conversion.parameters.items()}

    # bytes
    by_inputs: dict[int, list[QuantizedWeight]] = {}
    for weight in weights.values():
        by_inputs.setdefault(weight.codes.shape[1], []).append(weight)
    assert sorted(stored(file).values()) == sorted(promised(own) for own in by_inputs.values())
    for name, weight in weights.items():
        size = int(weight.row_bits().astype(int).sum()) * weight.codes.shape[1]
        assert conversion.stored[name].bytes == -(-size // 8)

    # weights and results: those of one byte for each weight, at all levels and in onnx's evaluator
    x = rng.normal(0, 2, (2, 2, max(inputs for _, inputs in shapes))).astype(np.float32)
    plain = as_proto(convert(model, BitPlan(layers=layers), target, "container", weights=weights).model)
    for level in (*LEVELS, None):
        evaluate = (lambda m: reference(m, x)) if level is None else (lambda m, level=level: run(m, x, level))
        np.testing.assert_array_equal(evaluate(file), evaluate(plain))
        for read, weight in zip(weights_read(file), weights.values(), strict=True):
            np.testing.assert_array_equal(evaluate(with_outputs(file, read)), weight.dequantize().T)

    # what the file says about itself
    for found in inspect_model(conversion.model):
        widths, counts = np.unique(rows[found.name], return_counts=True)
        assert found.channel_bits == dict(zip(widths.tolist(), counts.tolist(), strict=True))
        assert found.parameters == weights[found.name].codes.size
        assert found.mean_weight_bits == pytest.approx(rows[found.name].mean())
        assert found.bytes == conversion.stored[found.name].bytes
    read_back = embedded_plan(ir.from_proto(file), Path("model.onnx"))
    assert read_back is not None
    for name, wanted in rows.items():
        np.testing.assert_array_equal(read_back.layers[name].row_bits(len(wanted)), wanted)


@pytest.mark.parametrize("widths", [(2, 3, 5), (5, 6, 7), (1, 4, 7), (4, 8)])
def test_one_layer_against_the_textbook_graph(widths: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(widths))
    matrix = rng.normal(size=(24, 40)).astype(np.float32)
    rows = rng.choice(widths, 40)
    x = rng.normal(0, 2, (2, 3, 24)).astype(np.float32)
    for target in ORT:
        conversion = convert(one_matmul(matrix), BitPlan(layers={"fc": mixed(rows)}), target)
        file, weight = as_proto(conversion.model), conversion.parameters["fc"].weight
        plain = plain_qdq(weight.integers().T, weight.scale)
        unsigned = 8 in widths and not TARGETS[target].signed_8bit_exact
        for level in LEVELS:
            if unsigned and level != LEVELS[0]:
                np.testing.assert_allclose(run(file, x, level), run(plain, x), rtol=1e-5, atol=1e-5)
            else:
                np.testing.assert_array_equal(run(file, x, level), run(plain, x, level))
        np.testing.assert_array_equal(reference(file, x), reference(plain, x))
        assert kernels(file) == ["QuantizeLinear", "MatMulIntegerToFloat"]
        types = {t.name: t.data_type for t in file.graph.initializer}
        assert (types.get("fc.weight.zero_point") == TensorProto.UINT8) == unsigned


@pytest.mark.parametrize("linear", ["matmul", "gemm"])
@pytest.mark.parametrize("target", FOLDING)
def test_all_passes_take_mixed_layers(target: str, linear: str) -> None:
    rng = np.random.default_rng(5)
    model = vit(linear=linear)
    layers = {}
    for layer in find_layers(as_ir(model).graph):
        widths = rng.choice(8 if TARGETS[target].signed_8bit_exact else 7, 3, replace=False) + 1
        inputs = 32 if layer.type == "patch_embed" else 16 if layer.name.endswith("1.mlp.fc2") else 8
        if TARGETS[target].kernel(8, inputs) is None:
            inputs = 32
        layers[layer.name] = mixed(rng.choice(widths, len(layer.matrix())), inputs)
    plan = BitPlan(layers=layers)
    conversion = convert(model, plan, target)
    weights = {name: numbers.weight for name, numbers in conversion.parameters.items()}
    assert sum(weight.widths is not None for weight in weights.values()) == len(weights)
    exact, plain = (
        as_proto(convert(model, plan, target, packing, weights=weights).model) for packing in ("exact", "container")
    )
    x = rng.normal(size=(3, 3, 4, 4)).astype(np.float32)
    for level in (LEVELS[0], LEVELS[-1]):
        np.testing.assert_array_equal(run(exact, x, level), run(plain, x, level))
    assert sorted(kernels(exact)) == sorted(kernels(plain))
    assert len({layer.name for layer in inspect_model(conversion.model)}) == len(layers)


def test_biases_of_the_rounding_and_heads_cut_in_parts() -> None:
    """Every output channel of wide parts keeps its own width, scale and bias."""
    rng = np.random.default_rng(1)
    b = Builder()
    y = b.op("MatMul", "x", b.random("qkv.weight", 16, 48))
    y = b.op("Add", y, b.random("qkv.bias", 48))
    for part in b.ops("Split", y, b.ints(16, 16, 16), outputs=3, axis=2):
        y = part
    b.rename(y, "y")
    model = b.model({"x": ["n", 5, 16]}, {"y": ["n", 5, 16]})
    rows = rng.choice((2, 3, 6), 48)
    plan = BitPlan(layers={"qkv": mixed(rows)})
    first = convert(model, plan, "onnxruntime-x86-vnni")
    assert first.passes["ProductPerPart"] == 1
    weight = first.parameters["qkv"].weight
    x = rng.normal(size=(2, 5, 16)).astype(np.float32)
    bias = rng.normal(size=48).astype(np.float32)
    weight = QuantizedWeight(weight.codes, weight.scale, weight.bits, weight.grid, bias, weight.widths)
    second = convert(model, plan, "onnxruntime-x86-avx2", weights={"qkv": weight})
    plain = plain_qdq(weight.integers().T, weight.scale)
    plain.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5
    plain.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    wanted = run(plain, x)[..., 32:] + bias[32:]
    np.testing.assert_allclose(run(as_proto(second.model), x, LEVELS[-1]), wanted, rtol=1e-6, atol=1e-6)


def test_equal_weights_are_stored_once_and_unequal_ones_are_not() -> None:
    b = Builder()
    shared = b.random("a.weight", 8, 8)
    h = b.op("Relu", b.op("MatMul", "x", shared, name="first"))
    h = b.op("Relu", b.op("MatMul", h, shared, name="second"))
    b.rename(b.op("MatMul", h, b.random("c.weight", 8, 8)), "y")
    model = b.model({"x": ["n", 2, 8]}, {"y": ["n", 2, 8]})
    names = [layer.name for layer in find_layers(as_ir(model).graph)]
    rows = np.array([2, 5, 2, 3, 3, 5, 5, 2])
    plan = BitPlan(layers=dict.fromkeys(names, mixed(rows)))
    x = np.random.default_rng(0).normal(size=(2, 2, 8)).astype(np.float32)
    same = convert(model, plan, "onnxruntime-x86-vnni")
    own, other, third = (same.parameters[name].weight for name in names)
    np.testing.assert_array_equal(own.codes, other.codes)
    assert list(stored(as_proto(same.model)).values()) == [promised([own, third])]
    # The same numbers with other widths are other weights.
    different = BitPlan(layers={**plan.layers, names[1]: mixed(rows[::-1].copy())})
    other = convert(model, different, "onnxruntime-x86-vnni")
    for own_plan, conversion in ((plan, same), (different, other)):
        weights = {name: numbers.weight for name, numbers in conversion.parameters.items()}
        plain = convert(model, own_plan, "onnxruntime-x86-vnni", "container", weights=weights)
        np.testing.assert_array_equal(
            run(as_proto(conversion.model), x, LEVELS[-1]), run(as_proto(plain.model), x, LEVELS[-1])
        )
    assert len(other.stored) == 3


def test_mixed_and_plain_layers_in_one_file() -> None:
    model = vit()
    names = [layer.name for layer in find_layers(as_ir(model).graph)]
    plain = plan_for(names, weight_bits=3, low=-3.0, high=2.5)
    rows = {layer.name: len(layer.matrix()) for layer in find_layers(as_ir(model).graph)}
    some = {name: mixed(np.resize([3, 3, 5], rows[name])) for name in names[1:4]}
    some[names[4]] = mixed(np.full(rows[names[4]], 4))  # one width for all channels: a plain layer
    some[names[5]] = mixed(np.resize([2, 4], rows[names[5]])).model_copy(update={"storage": "container"})
    conversion = convert(model, BitPlan(layers={**plain.layers, **some}), "onnxruntime-x86-vnni")
    found = {layer.name: layer for layer in inspect_model(ir.from_proto(as_proto(conversion.model)))}
    assert [found[name].channel_bits is not None for name in names[:6]] == [False, True, True, True, False, True]
    assert found[names[5]].storage == "int8"
    assert found[names[5]].bytes == found[names[5]].parameters
    assert found[names[4]].weight_bits == 4
    text = conversion.model.metadata_props[PLAN_KEY]
    assert text.count('"order"') == 2  # those that are in no pool
    plan = embedded_plan(conversion.model, Path("model.onnx"))
    assert plan is not None
    assert plan.layers[names[5]] == some[names[5]]
    assert plan.weight_average() is None


def test_pools_hold_neighbours_with_the_same_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"a": (4, 8), "b": (4, 16), "c": (5, 8), "d": (9, 8), "e": (1, 16), "f": (400, 8)}
    assert pools_of(shapes) == [["a", "c", "d", "f"], ["b", "e"]]
    monkeypatch.setattr("lampq_onnx.quantization.pools.POOL_WEIGHTS", 80)
    assert pools_of(shapes) == [["a", "c"], ["b", "e"], ["d"], ["f"]]
    model = branches([(8, 8), (9, 8), (10, 8)], 0)
    plan = BitPlan(layers={f"l{at}": mixed(np.resize([2, 7], 8 + at)) for at in range(3)})
    split = convert(model, plan, "onnxruntime-x86-vnni")
    monkeypatch.undo()
    whole = convert(model, plan, "onnxruntime-x86-vnni")
    assert len(stored(as_proto(split.model))) == 3
    assert len(stored(as_proto(whole.model))) == 1
    x = np.random.default_rng(0).normal(size=(1, 2, 8)).astype(np.float32)
    np.testing.assert_array_equal(run(as_proto(split.model), x), run(as_proto(whole.model), x))


def test_pairs_of_bytes_in_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    model = branches([(16, 8), (24, 8)], 3)
    plan = BitPlan(layers={f"l{at}": mixed(np.resize([2, 3, 4, 5], 16 + 8 * at)) for at in range(2)})
    x = np.random.default_rng(0).normal(size=(1, 2, 8)).astype(np.float32)
    plain = run(as_proto(convert(model, plan, "openvino-x86-vnni").model), x)
    monkeypatch.setattr("lampq_onnx.quantization.pairs.PAIR_SHARE", 0)
    file = as_proto(convert(model, plan, "openvino-x86-vnni").model)
    assert any(t.data_type == TensorProto.UINT16 for t in file.graph.initializer)
    np.testing.assert_array_equal(run(file, x), plain)
    read_back = embedded_plan(ir.from_proto(file), Path("model.onnx"))
    assert read_back is not None
    np.testing.assert_array_equal(read_back.layers["l0"].row_bits(16), np.resize([2, 3, 4, 5], 16))


@pytest.mark.parametrize("opset", [14, 17, 18])
def test_old_opsets(opset: int) -> None:
    matrix = np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32)
    rows = np.resize([2, 5, 6, 7], 24)
    conversion = convert(one_matmul(matrix, opset=opset), BitPlan(layers={"fc": mixed(rows)}), "onnxruntime-x86-vnni")
    file = as_proto(conversion.model)
    assert conversion.model.opset_imports[""] == opset
    x = np.random.default_rng(1).normal(size=(1, 3, 16)).astype(np.float32)
    (read,) = weights_read(file)
    for level in LEVELS:
        found = run(with_outputs(file, read), x, level)
        np.testing.assert_array_equal(found, conversion.parameters["fc"].weight.dequantize().T)


def test_names_of_the_model_are_not_taken() -> None:
    b = Builder()
    b.rename(b.op("Add", b.op("MatMul", "x", b.random("fc.weight", 8, 8)), b.random("channels.0.sizes", 8)), "y")
    model = b.model({"x": ["n", 2, 8]}, {"y": ["n", 2, 8]})
    file = as_proto(convert(model, BitPlan(layers={"fc": mixed(np.resize([2, 4], 8))}), "onnxruntime-arm64").model)
    session(file)
    assert any(name.startswith("channels_.0.") for name in constants(file))


@pytest.mark.parametrize("target", [name for name, target in TARGETS.items() if not target.folds and not target.float8])
def test_targets_that_unpack_nothing_refuse(target: str) -> None:
    matrix = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    rows = np.resize([4, 8], 8)
    with pytest.raises(UsageError, match=rf"layer fc: all output channels .* {target}") as found:
        convert(one_matmul(matrix), BitPlan(layers={"fc": mixed(rows)}), target, "container")
    assert "--granularity layer" in (found.value.hint or "")
    convert(one_matmul(matrix), BitPlan(layers={"fc": mixed(np.full(8, 8))}), target, "container")


def test_native_storage_refuses() -> None:
    matrix = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    with pytest.raises(UsageError, match="native storage has one integer type for a layer"):
        convert(one_matmul(matrix), BitPlan(layers={"fc": mixed(np.resize([2, 4], 8))}), "onnxruntime-arm64", "native")


def test_a_plan_for_another_number_of_channels() -> None:
    matrix = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    with pytest.raises(LampqError, match="layer fc has 8 output channels in the model: the plan has widths of 9"):
        convert(one_matmul(matrix), BitPlan(layers={"fc": mixed(np.resize([2, 4], 9))}), "onnxruntime-arm64")


def test_a_file_whose_pool_is_gone_does_not_tell_the_widths() -> None:
    matrix = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    plan = BitPlan(layers={"fc": mixed(np.resize([2, 4], 8))})
    model = convert(one_matmul(matrix), plan, "onnxruntime-arm64").model
    for node in model.graph:
        node.metadata_props.pop(CHANNEL_CLASSES_KEY, None)
    with pytest.raises(LampqError, match="output channels of layer fc"):
        embedded_plan(model, Path("model.onnx"))


def test_bytes_of_pools_are_near_those_predicted() -> None:
    """The whole file, against the rows, the numbers of the classes and what is counted for a pool."""
    shapes = [(96, 32), (64, 32), (32, 64), (96, 32), (32, 64), (64, 32)]
    model = branches(shapes, 2)
    rng = np.random.default_rng(0)
    rows = [rng.choice((2, 3, 4, 5), outputs) for outputs, _ in shapes]
    plain = plan_for([f"l{at}" for at in range(len(shapes))], low=-3.0, high=2.5)
    mix = BitPlan(layers={f"l{at}": mixed(own) for at, own in enumerate(rows)})
    size = {}
    for name, plan in (("plain", plain), ("mix", mix)):
        size[name] = len(as_proto(convert(model, plan, "onnxruntime-x86-vnni").model).SerializeToString())
    numbers = sum(outputs for outputs, _ in shapes) * 3 // 8
    packed = sum(int(own.sum()) * inputs // 8 for own, (_, inputs) in zip(rows, shapes, strict=True))
    found = size["mix"] - packed - numbers - (size["plain"] - sum(a * b for a, b in shapes))
    layers = 210 * len(shapes)
    counted = pool_bytes({f"l{at}": shape for at, shape in enumerate(shapes)}, (2, 3, 4, 5))
    assert 0.7 < found / (counted + layers) < 1.1
