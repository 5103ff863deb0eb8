"""Latency tables: what is measured, how it adds up, and what the cache keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from lampq_onnx.artifacts import BitPlan, LatencyTable, LayerPlan
from lampq_onnx.cli.main import run
from lampq_onnx.disk.cache import ArrayCache
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.runtime.probe import ProbeOptions, probe
from lampq_onnx.runtime.probe.layers import LayerShape, layer_bytes
from lampq_onnx.runtime.probe.measure import Timing
from lampq_onnx.runtime.probe.probe import _context
from lampq_onnx.runtime.probe.timed_forms import timed_forms
from lampq_onnx.targets import TARGETS
from tests.converter.graphs import vit

VNNI = TARGETS["onnxruntime-x86-vnni"]
QUICK = ProbeOptions(rounds=5)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("probe") / "float.onnx"
    onnx.save(vit(linear="matmul"), path)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> ArrayCache:
    return ArrayCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def table(model, cache) -> LatencyTable:
    return probe(model, VNNI, QUICK, cache=cache)


def test_every_layer_has_a_time_in_every_form(table, model):
    names = {graph_layer.name for graph_layer in find_layers(load_model(model).graph)}
    assert {layer.name for layer in table.layers} == names
    assert len({layer.shape for layer in table.layers}) < len(names)
    for name in names:
        assert table.layer_times().ms(name, 32, 32) > 0
        for weight in range(1, 9):
            for inputs in (*range(2, 9), 16, 32):
                for storage in VNNI.packings:
                    assert table.layer_times().ms(name, weight, inputs, storage) > 0
    with pytest.raises(LampqError, match=r"no time of layer .* with 9 weight"):
        table.layer_times().ms(next(iter(names)), 9, 8)


def test_the_sum_is_right_at_both_ends(table):
    def plan(weight: int, inputs: int) -> BitPlan:
        layer = LayerPlan(weight_bits=weight, activation_bits=inputs)
        return BitPlan(layers={layer_.name: layer for layer_ in table.layers})

    assert table.predict(plan(32, 32)) == pytest.approx(table.float_ms)
    assert table.fixed_ms >= -1e-9
    if table.context != 1.0 and table.fixed_ms > 1e-9:  # neither noise nor a graph shorter than its layers
        assert table.predict(plan(4, 8)) == pytest.approx(table.fastest_ms)
    layers = sum(table.layer_times().ms(layer.name, 32, 32) for layer in table.layers)
    assert table.fixed_ms == pytest.approx(table.float_ms - layers)


def test_the_context_scales_what_the_forms_save(table):
    first = table.layers[0].name
    changed = table.model_copy(update={"context": 2 * table.context})
    assert changed.layer_times().ms(first, 4, 8) == pytest.approx(2 * table.layer_times().ms(first, 4, 8))
    saved = table.predict(BitPlan(layers={first: LayerPlan(weight_bits=4, activation_bits=8)})) - table.float_ms
    twice = changed.predict(BitPlan(layers={first: LayerPlan(weight_bits=4, activation_bits=8)})) - table.float_ms
    assert twice == pytest.approx(2 * saved)


def test_known_shapes_come_from_the_cache(model, cache, table):
    again = probe(model, VNNI, QUICK, cache=cache)
    assert again.times == table.times
    anew = probe(model, VNNI, ProbeOptions(rounds=5, reuse=False), cache=cache)
    assert anew.times != table.times
    other = probe(model, VNNI, ProbeOptions(rounds=6), cache=cache)
    assert other.times != anew.times


def test_the_file_form_round_trips(table, tmp_path):
    table.save(tmp_path / "latency.json")
    assert LatencyTable.load(tmp_path / "latency.json") == table


def test_a_layer_alone_computes_what_it_does_in_the_graph(model):
    for layer in find_layers(load_model(model).graph):
        shape = LayerShape.of(layer)
        x = np.random.default_rng(0).normal(size=(2, *shape.input)).astype(np.float32)
        answers = []
        for form in (None, (7, 8, "container"), (8, 16, "exact"), (8, 32, "exact")):
            session = ort.InferenceSession(layer_bytes(shape, 20, VNNI, form), providers=["CPUExecutionProvider"])
            answers.append(session.run(None, {"x": x})[0])
        assert answers[0].shape[-1 if shape.operator != "Conv" else 1] == shape.outputs
        for answer in answers[1:]:
            error = np.linalg.norm(answer.reshape(-1) - answers[0].reshape(-1)) / np.linalg.norm(answers[0])
            assert 0 < error < 0.05


def test_the_noise_is_the_standard_error_of_the_median():
    rng = np.random.default_rng(0)
    samples = rng.normal(10, 0.5, (2000, 41))
    medians = np.median(samples, axis=1)
    noises = [Timing.of(row.tolist()).noise * 10 for row in samples[:200]]
    assert np.mean(noises) == pytest.approx(medians.std(), rel=0.1)


def test_only_what_runs_here_is_timed(model):
    for name in ("tensorrt", "onnxruntime-qnn"):
        with pytest.raises(UsageError, match=f"{name} cannot be timed here"):
            probe(model, TARGETS[name], QUICK)
    assert [form.name for form in timed_forms(VNNI)][:2] == ["float", "W4A8-exact"]


def test_the_command_writes_a_table(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LAMPQ_ONNX_CACHE", str(tmp_path / "cache"))
    output = tmp_path / "latency.json"
    with pytest.raises(SystemExit) as caught:
        run(["probe", str(model), "-o", str(output), "--rounds", "5"])
    assert caught.value.code == 0
    table = LatencyTable.load(output)
    printed = capsys.readouterr().out
    assert f"{table.float_ms:.2f} ms" in printed
    assert list((tmp_path / "cache").iterdir())


def test_layers_never_take_longer_than_the_graph() -> None:
    assert _context(10.0, 4.0, 8.0, 5.0, 0.1) == pytest.approx(0.8)
    assert _context(10.0, 0.05, 8.0, 5.0, 0.1) == 1.0  # saved in the graph: noise
    assert _context(10.0, 4.0, 8.0, -1.0, 0.1) == 1.0
    assert _context(2.0, 0.0, 8.0, 1.0, 0.1) == pytest.approx(0.25)  # eight calls of sessions in a graph of 2 ms
    assert _context(2.0, 1.9, 8.0, 0.1, 0.1) == pytest.approx(0.25)
