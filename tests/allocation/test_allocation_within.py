"""Forms under several budgets: against brute force, and what cannot be kept."""

from __future__ import annotations

import itertools
import re
import time

import numpy as np
import pytest

import lampq_onnx
from lampq_onnx.allocation import AllocationOptions, Limits, allocate_within, parse_bops, parse_latency, parse_size
from lampq_onnx.artifacts import LatencyTable, Sensitivities
from lampq_onnx.artifacts.sensitivities import AgreementPoint
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.targets import TARGETS
from tools.bench.budgets import made_up_layer, made_up_table, sensitivities_of

VNNI = TARGETS["onnxruntime-x86-vnni"]
SHAPES = ((96, 32), (32, 32), (128, 32), (32, 128))
TOKENS = 17


def measured(count: int = 4, seed: int = 0, **changes) -> Sensitivities:
    rng = np.random.default_rng(seed)
    layers = [made_up_layer(f"u{i}", "linear", SHAPES[i % 4], TOKENS * SHAPES[i % 4][1], rng) for i in range(count)]
    return sensitivities_of("toy", layers).model_copy(update=changes)


def table_of(sensitivities: Sensitivities) -> LatencyTable:
    return made_up_table(sensitivities.layers)


def nodes(bits: int, name: str) -> int:
    """Bytes of a layer's nodes in native storage, biases within the integer kernel."""
    own, names = (235, 7) if bits <= 4 else (0, 0)
    return 800 + own + (25 + names) * len(name)


def took(sensitivities: Sensitivities, table: LatencyTable, widths: dict[str, tuple[int, int]]) -> tuple[float, ...]:
    """Bytes in native storage, ms and bit operations of a plan, the long way."""
    size = float(table.float_bytes)
    ms = table.float_ms
    bops = 0
    for layer in sensitivities.layers:
        w, a = widths[layer.name]
        own = {
            t.activation_bits: t.milliseconds for t in table.times if t.shape == f"{layer.shape[0]}x{layer.shape[1]}"
        }
        if w != 32:
            size += layer.parameters * w // 8 + 4 * layer.shape[0] + nodes(w, layer.name) - 4 * layer.parameters
            ms += own[(8,) if a == 8 else (16, 32)] - own[32,]
        bops += layer.parameters * TOKENS * w * a
    outputs = {layer.shape[0] for layer in sensitivities.layers if widths[layer.name][0] != 32}
    size += (2200 + sum(190 + 4 * count for count in outputs)) * bool(outputs)  # metadata and zero biases
    return size, ms, bops


def widths_of(plan) -> dict[str, tuple[int, int]]:
    return {name: (layer.weight_bits, layer.activation_bits) for name, layer in plan.layers.items()}


@pytest.mark.parametrize(
    ("bits", "size", "share", "bops"),
    [
        (None, 0.5, None, None), (None, None, 0.6, None), (None, 0.5, 0.7, None), (12, 0.6, 0.8, 0.5),
        (None, None, None, 0.1),
    ],
)  # fmt: skip
def test_the_cheapest_of_all_choices_is_found(bits, size, share, bops):
    sensitivities = measured()
    table = table_of(sensitivities)
    whole = took(sensitivities, table, {u.name: (32, 32) for u in sensitivities.layers})
    rest = whole[0] - 4 * sum(u.parameters for u in sensitivities.layers)
    fastest = took(sensitivities, table, {u.name: (8, 8) for u in sensitivities.layers})[1]
    limits = Limits(
        bits=bits,
        max_bytes=None if size is None else int(rest + size * (whole[0] - rest)),
        max_ms=None if share is None else fastest + share * (whole[1] - fastest),
        max_bops=None if bops is None else bops * whole[2],
    )
    plan, solution = allocate_within(
        sensitivities,
        limits,
        AllocationOptions(candidates=(2, 4, 8), granularity="layer"),
        target=VNNI,
        table=table,
        packing="native",
    )
    options = [(w, a) for w in (2, 4, 8) for a in (8, 16, 32)] + [(32, 32)]
    # The blend with even costs is the metric's own affair; costs are taken from it for single layers.
    from lampq_onnx.allocation.metrics import kl

    weights = kl(sensitivities, (2, 4, 8), 4.0)
    best = np.inf
    total = sum(u.parameters for u in sensitivities.layers)
    for choice in itertools.product(options, repeat=len(sensitivities.layers)):
        widths = {u.name: c for u, c in zip(sensitivities.layers, choice, strict=True)}
        took_bytes, took_ms, took_bops = took(sensitivities, table, widths)
        mean = sum(u.parameters * widths[u.name][0] for u in sensitivities.layers) / total
        if (
            (limits.max_bytes is None or took_bytes + int(0.005 * limits.max_bytes) <= limits.max_bytes)
            and (limits.max_ms is None or took_ms <= limits.max_ms + 1e-6)
            and (limits.max_bops is None or took_bops <= limits.max_bops)
            and (bits is None or mean <= bits)
        ):
            cost = sum(
                (0 if w == 32 else weights[i, (2, 4, 8).index(w)]) + (0 if a == 32 else u.activation_cost[a])
                for i, (u, (w, a)) in enumerate(zip(sensitivities.layers, choice, strict=True))
            )
            if share is None:  # 0.1 nats for a whole model on the float kernel
                work = {u.name: u.parameters * TOKENS for u in sensitivities.layers}
                cost += sum(0.1 * work[n] / sum(work.values()) for n, (_, a) in widths.items() if a > 8)
            best = min(best, cost)
    assert solution.proven_optimal
    assert solution.objective == pytest.approx(best, rel=1e-9)
    own_bytes, own_ms, own_bops = took(sensitivities, table, widths_of(plan))
    assert plan.promised_bytes == own_bytes
    assert plan.promised_ms == pytest.approx(own_ms)
    for usage in solution.usage:
        assert usage.used <= usage.limit
        if usage.name.startswith("G bit"):
            assert usage.used == pytest.approx(own_bops / 1e9)


@pytest.mark.parametrize("names", [("max_ms",), ("max_bytes",), ("max_bops",), ("max_ms", "max_bytes", "max_bops")])
def test_slack_budgets_are_refused_with_the_value_below_which_something_is_quantized(names):
    sensitivities = measured()
    table = table_of(sensitivities)
    scales = {"max_ms": ("ms", 1.0), "max_bytes": ("MB", 1e6), "max_bops": ("G", 1e9)}

    def quantized(**limits):
        # Float on its slower kernel has next to no price here: only budgets take layers out of it.
        own = AllocationOptions(wide_price=1e-30, granularity="layer")
        plan, _ = allocate_within(sensitivities, Limits(**limits), own, target=VNNI, table=table)
        return [name for name, layer in plan.layers.items() if layer.quantized]

    with pytest.raises(LampqError, match="nothing would be quantized") as caught:
        quantized(**dict.fromkeys(names, 10**13))
    for name in names:
        model_layer, scale = scales[name]
        (edge,) = (float(v) for v in re.findall(rf"quantized below ([\d.]+) {model_layer}\)", caught.value.message))
        assert quantized(**{name: int(0.99 * edge * scale) if scale > 1 else 0.99 * edge})
        with pytest.raises(LampqError, match="nothing would be quantized"):
            quantized(**{name: int(1.01 * edge * scale) if scale > 1 else 1.01 * edge})


def test_an_agreement_that_only_float_has_is_refused():
    points = tuple(
        AgreementPoint(cost=cost, agreement=kept, bits=bits, images=100)
        for cost, kept, bits in ((1e-2, 0.999, 8.0), (1.0, 0.9, 4.0), (10.0, 0.2, 2.0))
    )
    sensitivities = measured().model_copy(update={"agreement": points})
    for options in ({}, {"wide_price": 1e-30}):  # float on its slower kernel has a price, or next to none
        with pytest.raises(LampqError, match=r"(no plan|only the float model) is predicted"):
            allocate_within(sensitivities, Limits(min_agreement=1 - 1e-12), AllocationOptions(**options), target=VNNI)


def test_one_candidate_is_enough():
    sensitivities = measured()
    plan, _ = allocate_within(
        sensitivities, Limits(max_bytes=1_500_000), AllocationOptions(candidates=(8,)), target=VNNI
    )
    assert {w for w, _ in widths_of(plan).values()} <= {8, 32}
    with pytest.raises(LampqError, match=r"smallest possible file is [\d.]+ MB"):
        allocate_within(sensitivities, Limits(max_bytes=1_000_100), AllocationOptions(candidates=(8,)), target=VNNI)


def test_what_cannot_be_kept_says_what_could():
    sensitivities = measured()
    table = table_of(sensitivities)
    fastest = took(sensitivities, table, {u.name: (8, 8) for u in sensitivities.layers})[1]
    least = took(sensitivities, table, {u.name: (2, 8) for u in sensitivities.layers})[0]
    with pytest.raises(LampqError, match="ms of latency cannot be met") as caught:
        allocate_within(sensitivities, Limits(max_ms=0.99 * fastest), target=VNNI, table=table)
    (said,) = re.findall(r"The smallest possible latency is ([\d.]+) ms", caught.value.message)
    assert float(said) == pytest.approx(fastest, abs=1.1e-3)
    assert float(said) >= fastest
    for asked in (int(least) - 1, 10**5):
        with pytest.raises(LampqError, match="MB of file cannot be met") as caught:
            allocate_within(sensitivities, Limits(max_bytes=asked), target=VNNI, table=table)
        (size, floor) = re.findall(
            r"The smallest possible file is ([\d.]+) MB; ([\d.]+) MB of it cannot be quantized\.", caught.value.message
        )[0]
        assert float(size) == pytest.approx(least / 0.995 / 1e6, abs=1.1e-3)
        whole = sensitivities.float_bytes - 4 * sum(layer.parameters for layer in sensitivities.layers)
        assert float(floor) == pytest.approx(whole / 1e6, abs=1.1e-3)
        typed = parse_size(f"{size}MB")  # what is said can be typed
        plan, _ = allocate_within(sensitivities, Limits(max_bytes=typed), target=VNNI, table=table)
        assert plan.promised_bytes <= typed
    # Each alone can be kept: 8 bits are fast, and 2 bits in float are small on the slow kernel only.
    slow = tuple(
        own if own.activation_bits != (8,) else own.model_copy(update={"storages": ("container",)})
        for own in table.times
    )
    slow += tuple(
        own.model_copy(update={"storages": ("exact", "native"), "milliseconds": 3 * own.milliseconds})
        for own in table.times
        if own.activation_bits == (8,)
    )
    split = table.model_copy(update={"times": slow})
    with pytest.raises(LampqError, match="cannot be met together"):
        allocate_within(
            sensitivities, Limits(max_bytes=int(1.006 * least), max_ms=fastest * 1.01), target=VNNI, table=split
        )


def test_a_fast_storage_is_chosen_where_time_is_short_and_a_small_one_where_bytes_are():
    sensitivities = measured()
    table = table_of(sensitivities)
    times = []
    for own in table.times:
        if own.activation_bits == (8,):
            slow = {"storages": ("exact", "native"), "milliseconds": 2 * own.milliseconds}
            times += [own.model_copy(update=slow), own.model_copy(update={"storages": ("container",)})]
        else:
            times.append(own)
    split = table.model_copy(update={"times": tuple(times)})
    fastest = took(sensitivities, table, {u.name: (8, 8) for u in sensitivities.layers})[1]
    fast, _ = allocate_within(sensitivities, Limits(max_ms=fastest * 1.001), target=VNNI, table=split)
    small, _ = allocate_within(sensitivities, Limits(bits=4), target=VNNI, table=split)
    assert {layer.storage for layer in fast.layers.values()} == {"container"}
    assert {layer.storage for layer in small.layers.values() if layer.quantized} == {"exact"}


def test_agreement_is_a_budget_and_bytes_the_aim():
    curve = tuple(
        AgreementPoint(cost=cost, agreement=kept, bits=bits, images=100)
        for cost, kept, bits in ((0.4, 0.7, 2.0), (0.1, 0.9, 3.0), (0.02, 0.98, 4.0))
    )
    sensitivities = measured(12, agreement=curve)
    assert sensitivities.cost_at(0.9) == pytest.approx(0.1)
    assert sensitivities.cost_at(0.94) == pytest.approx(0.06)
    assert sensitivities.cost_at(0.99) == pytest.approx(0.01)
    assert sensitivities.cost_at(0.5) == 0.4
    assert sensitivities.agreement_at(0.06) == pytest.approx(0.94)
    assert sensitivities.agreement_at(1.0) is None
    sizes = []
    for asked in (0.75, 0.9, 0.97):
        plan, solution = allocate_within(sensitivities, Limits(min_agreement=asked), target=VNNI)
        assert plan.promised_agreement is not None
        assert plan.promised_agreement >= asked
        assert solution.objective == pytest.approx(
            sum(plan.promised_bytes - sensitivities.float_bytes + 4 * u.parameters for u in sensitivities.layers[:1])
            + 4 * sum(u.parameters for u in sensitivities.layers[1:])
        )
        sizes.append(plan.promised_bytes)
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_what_is_missing_is_said():
    sensitivities = measured()
    lampq = AllocationOptions(metric="lampq")
    for limits, named, error, match in (
        (Limits(max_ms=1.0), {}, UsageError, "--max-latency needs measured times"),
        (Limits(min_agreement=0.9), {}, LampqError, "no simulated plans"),
        (Limits(min_agreement=0.9), {"options": lampq}, UsageError, "the metric lampq has none"),
        (Limits(), {}, UsageError, "no budget"),
        (Limits(max_bytes=10**6), {"packing": "native", "target": TARGETS["tensorrt"]}, UsageError, "native storage"),
    ):
        with pytest.raises(error, match=match):
            allocate_within(sensitivities, limits, **({"target": VNNI} | named))
    with pytest.raises(UsageError, match="size of the float file"):
        allocate_within(measured(float_bytes=None), Limits(max_bytes=10**6), target=VNNI)
    other = table_of(measured(3))
    with pytest.raises(LampqError, match="has no layer u3"):
        allocate_within(sensitivities, Limits(max_ms=1.0), target=VNNI, table=other)


def test_targets_decide_the_forms():
    sensitivities = measured(8)
    plan, _ = allocate_within(sensitivities, Limits(max_bytes=1_200_000), target=TARGETS["tensorrt"])
    assert {a for _, a in widths_of(plan).values()} <= {8, 32}
    assert {layer.storage for layer in plan.layers.values() if layer.quantized} <= {"container"}
    plan, _ = allocate_within(sensitivities, Limits(bits=5), target=TARGETS["onnxruntime-qnn"])
    assert {w for w, _ in widths_of(plan).values()} <= {4, 8, 32}


def test_many_layers_are_quick():
    sensitivities = measured(300)
    table = table_of(sensitivities)
    fastest = took(sensitivities, table, {u.name: (8, 8) for u in sensitivities.layers})[1]
    start = time.perf_counter()
    _, solution = allocate_within(
        sensitivities,
        Limits(max_bytes=int(table.float_bytes * 0.5), max_ms=fastest * 1.3),
        AllocationOptions(time_limit=1.0),
        target=VNNI,
        table=table,
    )
    assert time.perf_counter() - start < 20  # other programs run as well
    assert solution.gap < 0.01


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_size, "4MB", 4_000_000), (parse_size, "1.5MiB", 3 * 2**19), (parse_size, "500 kB", 500_000),
        (parse_size, "123 B", 123), (parse_latency, "20ms", 20.0), (parse_latency, "0.02s", 20.0),
        (parse_latency, "800us", 0.8), (parse_latency, "7ms", 7.0), (parse_bops, "60G", 60e9),
        (parse_bops, "1.5T", 1.5e12),
    ],
)  # fmt: skip
def test_amounts_are_read(parse, text, value):
    assert parse(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_size, "4 apples"),
        (parse_size, "-1MB"),
        (parse_size, "0MB"),
        (parse_size, "9e99MB"),
        (parse_size, "4M"),
        (parse_latency, "20min"),
        (parse_latency, "0ms"),
        (parse_bops, ""),
        (parse_bops, "inf"),
    ],
)
def test_amounts_that_cannot_be_read_are_refused(parse, text):
    with pytest.raises(UsageError, match="cannot read"):
        parse(text)


@pytest.mark.parametrize(("parse", "text", "layers"), [(parse_size, "4", "MB"), (parse_latency, "20", "ms")])
def test_an_amount_without_a_layer_is_refused_with_the_layers(parse, text, layers):
    with pytest.raises(UsageError, match=f"'{text}' has no unit") as caught:
        parse(text)
    assert layers in caught.value.hint


def test_the_api_takes_budgets_as_the_command_line_does():
    sensitivities = measured(8)
    table = table_of(sensitivities)
    limits = Limits(max_bytes=1_150_000, max_ms=0.9 * table.float_ms)
    plan, _ = allocate_within(sensitivities, limits, target=VNNI, table=table)
    words = {"max_size": "1.15MB", "max_latency": f"{0.9 * table.float_ms!r}ms", "latency": table}
    assert lampq_onnx.allocate(sensitivities, **words) == plan
    assert lampq_onnx.allocate(sensitivities, metric="kl").budget == 4.0


def test_inputs_that_stay_in_float_pay_nothing_for_the_float_kernel():
    sensitivities = measured()
    layers = list(sensitivities.layers)
    layers[1] = layers[1].model_copy(update={"float_input": True})
    sensitivities = sensitivities.model_copy(update={"layers": tuple(layers)})
    limits = Limits(bits=4)
    for price in (0.1, float("inf")):
        plan, _ = allocate_within(sensitivities, limits, AllocationOptions(wide_price=price), target=VNNI)
        found = widths_of(plan)
        assert found["u1"][0] <= 8
        assert found["u1"][1] == 32
        assert plan.layers["u1"].activation_range is None
    assert all(inputs == 8 for name, (_, inputs) in found.items() if name != "u1")
    plan, _ = allocate_within(
        sensitivities, limits, AllocationOptions(candidates=(4, 8)), target=TARGETS["onnxruntime-qnn"]
    )
    assert widths_of(plan)["u1"][1] != 32 or widths_of(plan)["u1"] == (32, 32)
    layers[1] = layers[1].model_copy(update={"fixed": True})
    fixed = sensitivities.model_copy(update={"layers": tuple(layers)})
    plan, _ = allocate_within(fixed, limits, target=VNNI)
    assert widths_of(plan)["u1"] == (8, 32)
