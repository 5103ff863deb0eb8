"""Simulation, alpha, ranges and reconstruction errors on a tiny model."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch.nn import functional

from lampq_onnx.allocation import AllocationOptions, allocate
from lampq_onnx.artifacts import BitPlan, LayerPlan
from lampq_onnx.config.options import AnalysisOptions, RoundingOptions, UpdateOptions
from lampq_onnx.converter import convert_model
from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.measuring.alpha import FLOOR, spread, type_factors
from lampq_onnx.frontend.measuring.calibration import choose_ranges, nuclear_norms, product_ranges
from lampq_onnx.frontend.measuring.evaluator import SimulationEvaluator
from lampq_onnx.frontend.measuring.hessians import input_moments
from lampq_onnx.frontend.measuring.histograms import input_histograms
from lampq_onnx.frontend.measuring.visits import visit_inputs
from lampq_onnx.frontend.rounding import ladder
from lampq_onnx.frontend.rounding.plan import RoundedPlan
from lampq_onnx.frontend.session import Frontend
from lampq_onnx.frontend.shared.batching import logits_of
from lampq_onnx.frontend.simulation import simulate
from lampq_onnx.frontend.simulation.losses import Measure, loss_of
from lampq_onnx.frontend.simulation.simulate import (
    LayerSetting,
    WeightRounder,
    fake_quantize,
    simulated,
    simulated_parameters,
)
from lampq_onnx.graph.parameters import LayerParameters
from lampq_onnx.measures.evidence import LEAST_SEEN
from lampq_onnx.quantization import ActivationQuantizer
from lampq_onnx.targets import TARGETS
from tests.frontend.tiny_models import images, layers_of, loaded, tiny_vit

FAST = AnalysisOptions(effort="fast")


@pytest.fixture(scope="module")
def frontend() -> Frontend:
    return Frontend(loaded(tiny_vit()))


def test_fake_quantize_is_the_numeric_core() -> None:
    quantizer = ActivationQuantizer.from_range(-1.3, 2.1, 5)
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32) * 2
    assert np.array_equal(fake_quantize(torch.from_numpy(values), quantizer).numpy(), quantizer.fake(values))


def test_simulation_and_file_are_the_same_function(frontend: Frontend) -> None:
    data = images(8)
    sensitivities = frontend.analyze(images(16, seed=1), FAST, seed=0)
    one_row = {layer.name: layer.computed_elements for layer in sensitivities.layers if layer.computed_elements}
    assert one_row == {"blocks.1.attn.proj": 16, "blocks.1.mlp.fc1": 16, "blocks.1.mlp.fc2": 64}
    layers = {
        layer.name: LayerPlan(weight_bits=3, activation_bits=8, activation_range=layer.activation_range)
        for layer in sensitivities.layers
    }
    graph = ir.from_proto(ir.to_proto(frontend.model))  # a conversion changes what it is given
    conversion = convert_model(graph, BitPlan(layers=layers), target=TARGETS["onnxruntime-x86-avx2"])
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(ir.to_proto(conversion.model).SerializeToString(), options)
    written = session.run(None, {"input": data.images})[0]
    with frontend.simulation(conversion.parameters) as run:
        simulated_logits = run(data.images)
    plain = logits_of(frontend.loaded.module, data).numpy()
    assert np.abs(written - plain).max() > 0.01  # 3 bits do change the answer
    assert np.linalg.norm(written - simulated_logits) < 2e-2 * np.linalg.norm(written - plain)


def test_simulated_restores_the_weights(frontend: Frontend) -> None:
    data, module = images(4), frontend.loaded.module
    before = logits_of(module, data)
    settings = {layer.name: LayerSetting(2, None) for layer in frontend.exported.layers}

    def fail_inside() -> None:
        with simulated(frontend.exported.layers, settings, frontend.rounder):
            assert not torch.equal(logits_of(module, data), before)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert torch.equal(logits_of(module, data), before)


def test_histograms_hold_every_value_once(frontend: Frontend) -> None:
    data, module = images(20), frontend.loaded.module
    layer = next(u for u in frontend.exported.layers if u.type == "fc2")
    seen: list[np.ndarray] = []
    visit_inputs(module, [layer], data, lambda _, x: seen.append(x.numpy().ravel()))
    values = np.concatenate(seen)
    histogram = input_histograms(module, [layer], data)[layer.name]
    assert (histogram.low, histogram.high) == (values.min(), values.max())
    assert histogram.counts.sum() == values.size
    expected = np.histogram(values, bins=8, range=histogram.bins)[0]
    assert np.abs(histogram.counts.reshape(8, -1).sum(1) - expected).max() <= 0.001 * values.size


def test_a_range_that_clips_what_matters_is_not_chosen() -> None:
    """One channel holds rare huge values that the classifier lives on: min-max must win, not the percentiles."""
    model = tiny_vit()
    with torch.no_grad():
        model.head.weight[:, 0] = torch.tensor([6.0, -6.0, 3.0, -3.0])
        model.norm.weight[0] = 30.0
    head = [layer for layer in layers_of(model) if layer.type == "head"]
    ranges, _ = choose_ranges(model, head, images(24), images(8, seed=3), widths={"head": (8, 16)}, seed=0)
    assert {bits: found.method for bits, found in ranges["head"].items()} == {8: "minmax", 16: "minmax"}


def test_ranges_of_an_analysis_come_from_all_images(frontend: Frontend) -> None:
    data, layers = images(8), [layer for layer in frontend.exported.layers if layer.type == "fc2"]
    measured = frontend.analyze(data, AnalysisOptions(effort="fast", activation_bits=16), seed=0)
    ranges = {layer.name: layer.activation_range for layer in measured.layers}
    seen: dict[str, list[np.ndarray]] = {layer.name: [] for layer in layers}
    visit_inputs(frontend.loaded.module, layers, data, lambda layer, x: seen[layer.name].append(x.numpy()))
    for name, values in seen.items():
        found, whole = ranges[name], np.concatenate(values)
        assert found is not None
        assert (found.low, found.high, found.method) == (4 * whole.min(), 4 * whole.max(), "minmax")
    # Either half alone would give other ranges.
    assert any(np.concatenate(values)[:4].max() < np.concatenate(values)[4:].max() for values in seen.values())
    assert any(np.concatenate(values)[:4].max() > np.concatenate(values)[4:].max() for values in seen.values())


def test_nuclear_norms_are_sums_of_singular_values(frontend: Frontend) -> None:
    layer = next(u for u in frontend.exported.layers if u.type == "fc1")
    kept: list[torch.Tensor] = []
    handle = layer.module.register_forward_hook(lambda _, __, output: kept.append(output))
    try:
        measured = nuclear_norms(frontend.loaded.module, [layer], images(3))
    finally:
        handle.remove()
    expected = torch.linalg.svdvals(torch.cat(kept).double()).sum(1).mean()
    assert measured[layer.name] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("count", "samples", "expected"), [(12, 3, [2, 6, 10]), (2, 3, [0, 1]), (1, 1, [0]), (8, 2, [2, 6])]
)
def test_spread_over_depth(count: int, samples: int, expected: list[int]) -> None:
    assert spread(count, samples) == expected


def test_alpha_is_mean_loss_over_mean_trace(frontend: Frontend) -> None:
    data, module, layers = images(12), frontend.loaded.module, frontend.exported.layers
    reference = logits_of(module, data)
    traces = {layer.name: 1.0 + i for i, layer in enumerate(layers)}
    result = type_factors(module, layers, traces, {}, frontend.rounder, data, reference, None, bits=2, samples=2)
    qkv = [layer for layer in layers if layer.type == "qkv"]
    losses = []
    for layer in qkv:
        with simulated([layer], {layer.name: LayerSetting(2, None)}, frontend.rounder):
            losses.append(loss_of(logits_of(module, data), reference, None, "kl"))
    assert all(loss > FLOOR for loss in losses)
    expected = np.mean(losses) / np.mean([traces[u.name] for u in qkv])
    assert result.alpha["qkv"] == pytest.approx(expected)
    assert result.floored == ()


def test_alpha_is_floored_and_says_so(frontend: Frontend) -> None:
    data, module, layers = images(6), frontend.loaded.module, frontend.exported.layers
    reference = logits_of(module, data)
    labels = reference.argmax(1)  # float is always right, 8 bits as well: no drop
    traces = {layer.name: 1.0 for layer in layers}
    result = type_factors(
        module, layers, traces, {}, frontend.rounder, data, reference, labels, bits=8, measure="top1", samples=1
    )
    assert len(result.floored) == 4
    assert all(value == pytest.approx(FLOOR) for kind, value in result.alpha.items() if kind in ("qkv", "fc1"))


def test_losses() -> None:
    reference = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    changed = torch.tensor([[0.0, 2.0], [0.0, 1.0]])
    labels = torch.tensor([0, 1])
    p = reference.softmax(1)
    expected = float((p * (reference.log_softmax(1) - changed.log_softmax(1))).sum(1).mean())
    assert loss_of(changed, reference, None, "kl") == pytest.approx(expected, rel=1e-6)
    assert loss_of(changed, reference, labels, "top1") == 0.5
    assert loss_of(changed, reference, labels, "nll") == pytest.approx(1.0, rel=1e-6)
    with pytest.raises(LampqError, match="labels"):
        loss_of(changed, reference, None, "top1")


@pytest.mark.parametrize("inputs", ["quantized", "float"])
def test_reconstruction_errors(frontend: Frontend, inputs: str) -> None:
    module, layers, data = frontend.loaded.module, frontend.exported.layers, images(5)
    bits = {layer.name: 3 for layer in layers}
    activations = {layer.name: ActivationQuantizer.from_range(-4, 4, 8) for layer in layers}
    evaluator = SimulationEvaluator(
        module, layers, lambda name, _: activations[name], frontend.rounder, data, data, logits_of(module, data), None,
        fixed_bits={}, inputs=inputs,
    )  # fmt: skip
    measured = evaluator.reconstruction_errors(bits)
    layer = next(u for u in layers if u.name == "blocks.1.mlp.fc1")
    float_inputs: list[torch.Tensor] = []
    visit_inputs(module, [layer], data, lambda _, x: float_inputs.append(x.clone()))
    used: list[torch.Tensor] = []
    if inputs == "quantized":
        with simulated(layers, evaluator.settings(bits), frontend.rounder):
            handle = layer.module.register_forward_hook(lambda _, args, __: used.append(args[0].clone()))
            logits_of(module, data)
            handle.remove()
    else:
        used = [fake_quantize(x, activations[layer.name]) for x in float_inputs]
    x, xq = torch.cat(float_inputs).double(), torch.cat(used).double()
    w = layer.module.weight.double()
    wq = frontend.rounder.dequantized(layer.name, 3).double()
    expected = float((xq @ wq.T - x @ w.T).square().sum() / (x @ w.T).square().sum())
    assert measured[layer.name] == pytest.approx(expected, rel=1e-3)
    assert evaluator.score(bits) > evaluator.score(dict.fromkeys(bits, 8))


def test_widths_without_a_chance_are_given_up_after_the_first_images(frontend: Frontend) -> None:
    module, layers, data = frontend.loaded.module, frontend.exported.layers, images(40)
    reference, bits = logits_of(module, data), {layer.name: 4 for layer in layers}
    evaluator = SimulationEvaluator(
        module, layers, lambda *_: None, frontend.rounder, data, data, reference, None, fixed_bits={}
    )
    with simulated(layers, evaluator.settings(bits), frontend.rounder):
        changed = logits_of(module, data).double()
    own = reference.double()
    expected = (own.softmax(1) * (own.log_softmax(1) - changed.log_softmax(1))).sum(1).numpy()
    losses = evaluator.losses(bits)
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-9)
    assert len(evaluator.losses(bits, losses / 2)) == LEAST_SEEN  # worse
    np.testing.assert_allclose(evaluator.losses(bits, losses * 2), losses, rtol=1e-4)  # better on every image


@pytest.mark.parametrize("measure", ["nll", "top1"])
def test_labels_go_with_the_images_of_their_batch(frontend: Frontend, measure: Measure) -> None:
    module, layers, data = frontend.loaded.module, frontend.exported.layers, images(40)
    labels = torch.arange(40) % 4
    evaluator = SimulationEvaluator(
        module, layers, lambda *_: None, frontend.rounder, data, data, logits_of(module, data), labels, fixed_bits={},
        measure=measure,
    )  # fmt: skip
    bits = {layer.name: 3 for layer in layers}
    with simulated(layers, evaluator.settings(bits), frontend.rounder):
        changed = logits_of(module, data)
    own = logits_of(module, data)
    if measure == "nll":
        expected = [float(own[i].log_softmax(0)[k] - changed[i].log_softmax(0)[k]) for i, k in enumerate(labels)]
    else:
        expected = [float(own[i].argmax() == k) - float(changed[i].argmax() == k) for i, k in enumerate(labels)]
    losses = evaluator.losses(bits)
    np.testing.assert_allclose(losses, expected, atol=1e-5)
    assert len(evaluator.losses(bits, losses)) == (40 if measure == "top1" else LEAST_SEEN)


def test_rounders_of_the_same_weights_fit_each_grid_once() -> None:
    layers = layers_of(tiny_vit())
    first = WeightRounder(layers)
    second = WeightRounder(layers, fitted=first)
    assert second.grid(layers[1].name, 4) is first.grid(layers[1].name, 4)
    assert first.grid(layers[2].name, 3) is second.grid(layers[2].name, 3)
    assert WeightRounder(layers).grid(layers[1].name, 4) is not first.grid(layers[1].name, 4)
    with pytest.raises(ValueError, match=r"are not .* and 32"):
        WeightRounder(layers, fitted=first, block=32)


def test_moments_of_a_layer_are_given_back_once_it_is_rounded(
    frontend: Frontend, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, layers = frontend.loaded.module, [layer for layer in frontend.exported.layers if ".mlp." in layer.name]
    moments = input_moments(module, layers, images(4))
    held = {name: weakref.ref(value) for name, value in moments.items()}
    alive: list[int] = []
    left = lambda: alive.append(sum(ref() is not None for ref in held.values()))  # noqa: E731
    monkeypatch.setattr(simulate, "give_back", left)
    rounder = WeightRounder(layers, moments, widths=(3, 4))
    moments.clear()
    for layer in layers:
        rounder.settle(layer.name, (4,))
    assert alive == [*reversed(range(len(layers)))]


def test_rounder_names_the_layer_of_bad_weights() -> None:
    model = tiny_vit()
    layers = layers_of(model)
    with torch.no_grad():
        model.blocks[1].attn.proj.weight[0, 0] = float("nan")
    with pytest.raises(LampqError, match=r"blocks\.1\.attn\.proj.*NaN"):
        WeightRounder(layers).grid("blocks.1.attn.proj", 4)


def test_given_labels_are_needed_when_asked_for(frontend: Frontend) -> None:
    from tests.frontend.tiny_models import ArrayImages

    blank = ArrayImages(images(6).images, None)
    with pytest.raises(LampqError, match="given labels"):
        frontend.analyze(blank, AnalysisOptions(labels="given"), seed=0)


def test_analysis_is_seeded_and_complete(frontend: Frontend) -> None:
    data = images(12)
    first = frontend.analyze(data, FAST, seed=3)
    again = frontend.analyze(data, FAST, seed=3)
    assert first == again
    assert [layer.fixed for layer in first.layers].count(True) == 2
    assert all(set(layer.weight_error) == set(range(2, 9)) for layer in first.layers)
    errors = first.layers[1].weight_error
    assert all(errors[b] > errors[b + 1] for b in range(2, 8))
    assert UpdateOptions().rule == "strict"


def test_moments_count_every_token_alike(frontend: Frontend) -> None:
    data, module = images(5), frontend.loaded.module
    layer = next(u for u in frontend.exported.layers if u.type == "fc1")
    seen: list[torch.Tensor] = []
    visit_inputs(module, [layer], data, lambda _, x: seen.append(x.flatten(0, 1).double()))
    tokens = torch.cat(seen)
    tokens = tokens / tokens.norm(dim=1, keepdim=True)
    measured = input_moments(module, [layer], data)[layer.name]
    assert np.trace(measured) == pytest.approx(1, rel=1e-4)
    np.testing.assert_allclose(measured, (tokens.T @ tokens / len(tokens)).numpy(), atol=1e-5)


def test_codes_of_candidates_are_freed_before_the_last_plan_is_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    front, data = Frontend(loaded(tiny_vit())), images(16)
    plan = allocate(front.analyze(data, FAST, seed=0), AllocationOptions(bits=3))[0]
    front.use_gptq(data)
    front.rounder.quantized("blocks.0.mlp.fc2", 3)
    rounders: list[WeightRounder] = []
    climb = ladder.climb

    def watched(*arguments: Any, **named: Any) -> Any:
        rounders.append(front.rounder)
        return climb(*arguments, **named)

    monkeypatch.setattr("lampq_onnx.frontend.rounding.plan.climb", watched)
    first, last = (
        front.round(plan, data, RoundingOptions(effort="balanced"), UpdateOptions(), seed=0, last=last)
        for last in (False, True)
    )
    assert [len(rounder._rounded) > 0 for rounder in rounders] == [True, False]
    assert first.methods == last.methods
    assert all(np.array_equal(own.codes, last.weights[name].codes) for name, own in first.weights.items())


def test_gptq_is_used_and_dropped_where_it_does_harm() -> None:
    front = Frontend(loaded(tiny_vit()))
    data = images(64)
    plan = allocate(front.analyze(data, FAST, seed=0), AllocationOptions(bits=3))[0]

    def rounded() -> RoundedPlan:
        return front.round(plan, data, RoundingOptions(effort="fast"), UpdateOptions(), seed=0)

    layer = "blocks.0.mlp.fc2"
    nearest = rounded().weights
    front.use_gptq(data)
    found = rounded()
    clever = found.weights
    assert found.methods[layer] == "gptq"
    assert found.methods["patch_embed.proj"] == "nearest"
    assert found.losses["gptq"] < found.losses["nearest"]
    assert not np.array_equal(clever[layer].codes, nearest[layer].codes)
    assert np.array_equal(clever["patch_embed.proj"].codes, nearest["patch_embed.proj"].codes)
    # moments of another model entirely: GPTQ then pushes errors where they hurt
    random = np.random.default_rng(0)
    wrong = {}
    for part in front.exported.layers:
        if isinstance(part.module, torch.nn.Linear):
            basis = random.normal(size=(part.module.in_features, 2))
            wrong[part.name] = torch.from_numpy((basis @ basis.T).astype(np.float32))
    front.rounder = WeightRounder(front.exported.layers, wrong)
    found = rounded()
    assert set(found.methods.values()) == {"nearest"}
    assert np.array_equal(found.weights[layer].codes, nearest[layer].codes)


@torch.no_grad()
def product_by(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The product of a Linear or of a patch embedding."""
    return functional.linear(x, weight) if x.ndim == 3 else functional.conv2d(x, weight, stride=weight.shape[2:])


def test_products_are_measured_and_simulated_before_their_bias() -> None:
    module = tiny_vit()
    layers = [layer for layer in layers_of(module) if layer.name in ("patch_embed.proj", "blocks.0.mlp.fc1")]
    data = images(9)
    ranges = product_ranges(module, layers, data)
    for layer in layers:
        inputs: list[torch.Tensor] = []
        visit_inputs(module, [layer], data, lambda _, values, seen=inputs: seen.append(values.clone()))
        weight, x = layer.module.weight, torch.cat(inputs)
        product = product_by(x, weight)
        found = ranges[layer.name]
        assert (found.low, found.high) == pytest.approx((float(product.min()), float(product.max())), rel=1e-4)
        quantizer = ActivationQuantizer.from_range(found.low, found.high, 4)
        rounded = WeightRounder([layer]).quantized(layer.name, 8)
        with simulated_parameters([layer], {layer.name: LayerParameters(rounded, None, quantizer)}):
            now = layer.module(x)
        product = product_by(x, torch.from_numpy(rounded.dequantize()).reshape(weight.shape))
        bias = layer.module.bias.detach()
        expected = quantizer.fake(product.numpy()) + (bias if x.ndim == 3 else bias[:, None, None]).numpy()
        # A product on a rounding boundary may fall to either side.
        assert np.mean(np.abs(now.detach().numpy() - expected) > 1e-4) < 0.001
