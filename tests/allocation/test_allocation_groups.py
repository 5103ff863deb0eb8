"""Widths for groups of output channels: against brute force, and every budget in whole numbers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lampq_onnx.allocation import METRICS, AllocationOptions, Limits, allocate, allocate_within
from lampq_onnx.allocation.forms import LayerForm, beside_layers, bit_operations, form_bytes
from lampq_onnx.allocation.groups import GROUP, ChannelGroups, groups_of
from lampq_onnx.allocation.mixes import linear_costs
from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerSensitivity, ModelIdentity, Sensitivities
from lampq_onnx.artifacts.sensitivities import AgreementPoint
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.targets import TARGETS

TARGET = TARGETS["x86-vnni"] if "x86-vnni" in TARGETS else next(t for t in TARGETS.values() if t.folds)
GROUPED = AllocationOptions(granularity="group")


def layer(
    name: str, outputs: int, inputs: int, random: np.random.Generator, *, shares: bool = True
) -> LayerSensitivity:
    level = math.exp(random.normal(-6, 1))
    spread = random.lognormal(0, 0.8, outputs)
    return LayerSensitivity(
        name=name,
        type="fc1",
        parameters=outputs * inputs,
        shape=(outputs, inputs),
        trace=1.0,
        nuclear_norm=1.0,
        weight_error=dict.fromkeys(range(2, 9), 1.0),
        weight_cost={bits: level * 4.0 ** (2 - bits) * math.exp(random.normal(0, 0.1)) for bits in range(2, 9)},
        channel_shares=tuple(float(f"{v:.3g}") for v in spread / spread.sum()) if shares else None,
        activation_range=ActivationRange(low=-1, high=1),
        activation_cost={8: 1e-6, 16: 1e-9},
        activation_elements=10 * inputs,
    )


def model(*shapes: tuple[int, int], seed: int = 0, shares: bool = True) -> Sensitivities:
    random = np.random.default_rng(seed)
    layers = tuple(layer(f"layer {i}", *shape, random, shares=shares) for i, shape in enumerate(shapes))
    return Sensitivities(
        model=ModelIdentity(name="m", weights_sha256="0" * 64, num_classes=10),
        layers=layers,
        alpha={"fc1": 1.0},
        alpha_bits=2,
        alpha_measure="kl",
        activation_bits=8,
        labels="sampled",
        calibration_images=8,
        seed=0,
        float_bytes=4 * sum(own.parameters for own in layers) + 20_000,
        agreement=(
            AgreementPoint(cost=0.01, agreement=0.95, bits=4, images=64),
            AgreementPoint(cost=0.1, agreement=0.8, bits=3, images=64),
        ),
    )


def cost_of(plan: BitPlan, sensitivities: Sensitivities) -> float:
    """The cost channel by channel."""
    candidates = tuple(range(2, 9))
    table = METRICS["kl"](sensitivities, candidates, 4.0)
    total = 0.0
    for i, own in enumerate(sensitivities.layers):
        assert own.channel_shares is not None
        shares = np.array(own.channel_shares) / sum(own.channel_shares)
        widths = plan.layers[own.name].row_bits(own.shape[0])
        total += float(
            sum(share * table[i, candidates.index(bits)] for share, bits in zip(shares, widths, strict=True))
        )
    return total


@pytest.mark.parametrize("bits", [2.5, 3.0, 4.2])
def test_two_layers_against_all_choices(bits: float) -> None:
    sensitivities = model((48, 20), (32, 30), seed=3)
    options = AllocationOptions(granularity="group", bits=bits, candidates=(2, 3, 4, 5))
    plan, solution = allocate(sensitivities, options)
    table = METRICS["kl"](sensitivities, options.candidates, 4.0)
    groups = [groups_of(own) for own in sensitivities.layers]
    parts = [(i, k) for i, own in enumerate(groups) if own is not None for k in range(len(own.rows))]
    capacity = bits * sum(own.parameters for own in sensitivities.layers)
    best = math.inf
    for chosen in itertools.product(range(4), repeat=len(parts)):
        used = cost = 0.0
        for (i, k), width in zip(parts, chosen, strict=True):
            own = groups[i]
            assert own is not None
            used += own.rows[k] * sensitivities.layers[i].shape[1] * options.candidates[width]
            cost += own.shares[k] * table[i, width]
        if used <= capacity:
            best = min(best, cost)
    assert solution.objective == pytest.approx(best, rel=1e-9)
    assert solution.bound <= best * (1 + 1e-12)
    assert cost_of(plan, sensitivities) <= solution.objective * (1 + 1e-9) or bits != 3.0


def test_the_plan_costs_and_takes_what_the_solution_says() -> None:
    sensitivities = model((576, 192), (192, 192), (768, 192), (192, 768), seed=1)
    plan, solution = allocate(sensitivities, AllocationOptions(granularity="group", bits=3.5))
    assert cost_of(plan, sensitivities) == pytest.approx(solution.objective, rel=1e-6)
    average = plan.weight_average()
    assert average is not None
    assert average <= 3.5
    assert solution.gap < 1e-3
    layered, whole = allocate(sensitivities, AllocationOptions(granularity="layer", bits=3.5))
    assert all(own.channel_widths is None for own in layered.layers.values())
    assert solution.objective < 0.9 * whole.objective
    for own in plan.layers.values():
        if own.channel_widths is not None:
            assert 2 <= len(own.channel_widths.counts) <= 4
            assert own.weight_bits == max(own.channel_widths.counts)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shapes=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 40)), min_size=1, max_size=5),
    bits=st.floats(2, 8),
    limit=st.sampled_from(["bits", "bytes", "bops", "both"]),
)
def test_every_budget_is_kept_and_the_bound_holds(
    seed: int, shapes: list[tuple[int, int]], bits: float, limit: str
) -> None:
    sensitivities = model(*shapes, seed=seed)
    weights = sum(own.parameters for own in sensitivities.layers)
    if limit == "bits":
        plan, solution = allocate(sensitivities, AllocationOptions(granularity="group", bits=bits))
        average = plan.weight_average()
        assert average is not None
        assert average * weights <= bits * weights * (1 + 1e-12)
        assert solution.bound <= solution.objective
        return
    size = 20_000 + 2_600 * len(shapes) + int(weights * bits / 8) if limit != "bops" else None
    bops = weights * 10 * 8 * bits if limit != "bytes" else None
    try:
        plan, found = allocate_within(
            sensitivities, Limits(max_bytes=size, max_bops=bops), GROUPED, target=TARGET, packing="exact"
        )
    except LampqError:
        return  # no plan keeps the limits
    assert all(own.used <= own.limit for own in found.usage)
    assert found.bound <= found.objective
    forms = {
        name: LayerForm(
            own.weight_bits,
            own.activation_bits,
            "exact" if own.quantized else None,
            None if own.channel_widths is None else tuple(own.channel_widths.counts.items()),
        )
        for name, own in plan.layers.items()
    }
    if size is not None:
        assert plan.promised_bytes is not None
        assert plan.promised_bytes <= size
        taken = sum(form_bytes(own, forms[own.name], TARGET) for own in sensitivities.layers)
        assert plan.promised_bytes == 20_000 + taken + beside_layers(sensitivities.layers, forms, TARGET)
    if bops is not None:
        assert sum(bit_operations(own, forms[own.name]) for own in sensitivities.layers) <= bops


def test_fewer_bytes_for_the_same_agreement() -> None:
    sensitivities = model((1152, 384), (1536, 384), (384, 1536), (384, 384), seed=5)
    sizes = {}
    for granularity in ("layer", "group"):
        options = AllocationOptions.of(granularity=granularity)
        plan, found = allocate_within(
            sensitivities, Limits(min_agreement=0.98), options, target=TARGET, packing="exact"
        )
        assert plan.promised_agreement is not None
        assert plan.promised_agreement >= 0.98 - 1e-9
        assert plan.promised_bytes is not None
        assert plan.promised_bytes == 20_000 + found.objective
        sizes[granularity] = plan.promised_bytes
    assert sizes["group"] < sizes["layer"]


@pytest.mark.parametrize("room", [1_000, 4_000, 16_000, 60_000])
def test_groups_never_lose_against_whole_layers_in_small_files(room: int) -> None:
    sensitivities = model((96, 32), (32, 32), (128, 32), (32, 128), seed=4)
    narrow = dict.fromkeys((own.name for own in sensitivities.layers), LayerForm(2, 8, "exact"))
    least = 20_000 + beside_layers(sensitivities.layers, narrow, TARGET)
    least += sum(form_bytes(own, narrow[own.name], TARGET) for own in sensitivities.layers)
    size = int((least + room) / 0.995)
    found = {}
    for granularity in ("layer", "group"):
        options = AllocationOptions.of(granularity=granularity)
        plan, found[granularity] = allocate_within(
            sensitivities, Limits(max_bytes=size), options, target=TARGET, packing="exact"
        )
        assert plan.promised_bytes is not None
        assert plan.promised_bytes <= size
    assert found["group"].objective <= found["layer"].objective
    assert found["group"].bound <= found["layer"].bound


def test_the_smallest_size_is_that_of_whole_layers() -> None:
    sensitivities = model((96, 32), (32, 32), seed=4)
    said = []
    for granularity in ("layer", "group"):
        options = AllocationOptions.of(granularity=granularity)
        with pytest.raises(LampqError, match="smallest possible file") as caught:
            allocate_within(sensitivities, Limits(max_bytes=100), options, target=TARGET, packing="exact")
        said.append(caught.value.message)
    assert said[0] == said[1]


def test_shares_of_counts_that_a_person_wrote() -> None:
    groups = ChannelGroups((0, 1, 2, 3), np.array([2, 2]), np.array([0.2, 0.8]))
    assert groups.shares_of([2, 2]).tolist() == pytest.approx([0.2, 0.8])
    assert groups.shares_of([1, 3]).tolist() == pytest.approx([0.1, 0.9])
    assert linear_costs(groups, ((2, 1), (4, 3)), [10.0, 1.0, 0.1], (2, 3, 4)) == pytest.approx(1.09)


def test_small_layers_and_layers_without_shares_have_one_width() -> None:
    random = np.random.default_rng(0)
    assert groups_of(layer("small", GROUP, 8, random)) is None
    assert groups_of(layer("unknown", 64, 8, random, shares=False)) is None
    found = groups_of(layer("rest", 40, 8, random))
    assert found is not None
    assert found.rows.tolist() == [20, 20]
    shares = layer("rest", 40, 8, np.random.default_rng(7)).channel_shares
    assert shares is not None
    again = groups_of(layer("rest", 40, 8, np.random.default_rng(7)))
    assert again is not None
    assert np.array(shares)[list(again.order)].tolist() == sorted(shares)


def test_groups_are_refused_where_they_cannot_be() -> None:
    with pytest.raises(LampqError, match="hold no shares of output channels"):
        allocate(model((64, 8), shares=False), GROUPED)
    with pytest.raises(UsageError, match="so it must be one width"):
        allocate(model((64, 8)), AllocationOptions(granularity="group", activation_bits="same"))
    plan, _ = allocate(model((64, 8), shares=False), AllocationOptions(granularity="auto"))
    assert plan.layers["layer 0"].channel_widths is None


def test_inputs_of_mixed_widths_under_a_budget_of_their_own() -> None:
    sensitivities = model((192, 64), (256, 64), (64, 256), seed=2)
    options = AllocationOptions(
        granularity="group", bits=3, activation_bits="mixed", activation_candidates=(8, 16), activation_budget=12
    )
    plan, solution = allocate(sensitivities, options)
    weights, inputs = plan.weight_average(), plan.activation_average()
    assert weights is not None
    assert inputs is not None
    assert weights <= 3
    assert inputs <= 12
    assert any(own.channel_widths is not None for own in plan.layers.values())
    assert solution.gap < 1e-2


@pytest.mark.parametrize("bits", [3.0, 4.5])
def test_the_papers_method_has_one_width_for_each_layer(bits: float) -> None:
    """Its plan is that of the published program, found by trying all, and shares of channels change nothing."""
    sensitivities = model((48, 20), (32, 30), (64, 16), seed=5)
    traces = (3.0, 0.2, 1.0)
    layers = tuple(own.model_copy(update={"trace": t}) for own, t in zip(sensitivities.layers, traces, strict=True))
    sensitivities = sensitivities.model_copy(update={"layers": layers, "alpha": {"fc1": 0.7}})
    options = AllocationOptions(granularity="layer", metric="lampq", bits=bits)
    plan, _ = allocate(sensitivities, options)
    sizes = [own.parameters for own in layers]
    choices = (
        (sum(0.7 * t * 4.0**-b for t, b in zip(traces, chosen, strict=True)), chosen)
        for chosen in itertools.product(range(2, 9), repeat=3)
        if sum(c * b for c, b in zip(sizes, chosen, strict=True)) <= bits * sum(sizes)
    )
    assert tuple(own.weight_bits for own in plan.layers.values()) == min(choices)[1]
    assert "channel_widths" not in plan.model_dump_json()
    bare = [own.model_copy(update={"channel_shares": None}) for own in layers]
    without, _ = allocate(sensitivities.model_copy(update={"layers": tuple(bare)}), options)
    assert without.model_dump_json() == plan.model_dump_json()
