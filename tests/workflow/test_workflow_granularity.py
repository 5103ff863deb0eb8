"""Which plans are compared to decide between one width for each layer and groups of channels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lampq_onnx.allocation import AllocationOptions, Limits
from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan, LayerSensitivity, ModelIdentity, Sensitivities
from lampq_onnx.artifacts.channel_widths import ChannelWidths
from lampq_onnx.config.options import BudgetOptions
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.stages import stages_of
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.frontend.measuring.samples import MOST_HELD_OUT, SHARE_IMAGES, unmeasured
from lampq_onnx.frontend.shared.kept import NOT_KEPT
from lampq_onnx.running.progress import NO_PROGRESS, Clock
from lampq_onnx.runtime.environment import target_here
from lampq_onnx.workflow import search
from lampq_onnx.workflow.granularity import Rivals, is_open, rivals

WEIGHTS = 64 * 1000
NODES = 2000
"""Bytes that the nodes of groups take here."""


def sensitivities(*, shares: bool = True) -> Sensitivities:
    """One layer of 64 channels with 1000 weights each."""
    layer = LayerSensitivity(
        name="a", type="fc1", parameters=WEIGHTS, shape=(64, 1000),
        weight_cost={bits: 4.0**-bits for bits in range(2, 9)},
        channel_shares=tuple((np.linspace(1, 3, 64) / 128).tolist()) if shares else None,
        activation_range=ActivationRange(low=-1.0, high=1.0),
    )  # fmt: skip
    return Sensitivities(
        model=ModelIdentity(name="tiny", num_classes=2, weights_sha256="0" * 64), layers=(layer,), alpha={},
        alpha_bits=2, alpha_measure="kl", activation_bits=8, labels="sampled", seed=0, calibration_images=8,
    )  # fmt: skip


def planned(options: AllocationOptions) -> tuple[BitPlan, Any]:
    """The width below the average, and with groups the one above it as well; nodes of groups take bytes."""
    bits, groups = options.bits, options.granularity == "group"
    low = int(bits)
    high = round(64 * (bits - low))
    widths = ChannelWidths(counts={low: 64 - high, low + 1: high}, order=tuple(range(64))) if groups and high else None
    layer = LayerPlan(
        weight_bits=widths.widest if widths else low, activation_bits=8, parameters=WEIGHTS, channel_widths=widths
    )
    size = int(WEIGHTS * layer.mean_weight_bits / 8) + (NODES if widths else 0)
    return BitPlan(layers={"a": layer}, promised_bytes=size), SimpleNamespace(only=False)


ONLY_BITS = Limits(bits=3.5)


def test_groups_are_compared_in_as_many_bytes_as_layers() -> None:
    options = AllocationOptions(bits=3.5)
    found = rivals(planned, sensitivities(), options, ONLY_BITS)
    assert isinstance(found, Rivals)
    layers, groups, equal = found.layers[0], found.groups[0], found.equal
    assert groups.weight_average() == pytest.approx(3.5, abs=0.02)
    assert layers.promised_bytes is not None
    assert equal.promised_bytes is not None
    # The layer has three bits, and groups leave what their nodes take.
    assert equal.promised_bytes <= layers.promised_bytes < (groups.promised_bytes or 0)


def test_layers_are_taken_where_no_groups_fit_in_their_bytes() -> None:
    def make(options: AllocationOptions) -> tuple[BitPlan, Any]:
        plan, solution = planned(options)
        size = 10 if options.granularity == "layer" else plan.promised_bytes
        return plan.model_copy(update={"promised_bytes": size}), solution

    found = rivals(make, sensitivities(), AllocationOptions(bits=3.5), ONLY_BITS)
    assert not isinstance(found, Rivals)
    assert found[0].promised_bytes == 10


@pytest.mark.parametrize("refused", ["layer", "group", "both"])
def test_a_budget_that_allows_one_of_the_two_decides(refused: str) -> None:
    def make(options: AllocationOptions) -> tuple[BitPlan, Any]:
        if refused in (options.granularity, "both"):
            raise LampqError(f"no {options.granularity}")
        return planned(options)

    limits = Limits(max_bytes=10**6)
    if refused == "both":
        with pytest.raises(LampqError, match="no layer"):
            rivals(make, sensitivities(), AllocationOptions(bits=3.5), limits)
        return
    found = rivals(make, sensitivities(), AllocationOptions(bits=3.5), limits)
    assert not isinstance(found, Rivals)
    assert (found[0].layers["a"].channel_widths is None) == (refused == "group")


def test_wrong_options_are_not_taken_for_a_budget_without_groups() -> None:
    def make(options: AllocationOptions) -> tuple[BitPlan, Any]:
        if options.granularity == "group":
            raise UsageError("an option is wrong")
        return planned(options)

    with pytest.raises(UsageError, match="an option is wrong"):
        rivals(make, sensitivities(), AllocationOptions(bits=3.5), ONLY_BITS)


def test_what_is_asked_for_is_not_compared() -> None:
    known = sensitivities()
    none = BudgetOptions()
    assert is_open(known, AllocationOptions(bits=3.5), none)
    assert not is_open(known, AllocationOptions(bits=3.5, granularity="layer"), none)
    assert not is_open(known, AllocationOptions(bits=3.5, granularity="group"), none)
    assert not is_open(known, AllocationOptions(bits=3.5), BudgetOptions(min_agreement=0.9))
    assert not is_open(known, AllocationOptions(bits=8.0), none)
    assert is_open(known, AllocationOptions(bits=8.0), BudgetOptions(max_size="1MB"))
    assert not is_open(sensitivities(shares=False), AllocationOptions(bits=3.5), none)


@pytest.mark.parametrize(("losses", "chosen"), [([0.2, 0.1], "group"), ([0.1, 0.2], "layer"), ([0.1, 0.1], "layer")])
def test_the_search_keeps_the_plan_with_less_loss_and_says_both(
    losses: list[float], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "make_plan", lambda _, options, *__, **___: planned(options))
    recipe = Recipe.build({"model": {"name": "tiny"}, "allocation": {"bits": 3.5}})
    seen: list[tuple[BitPlan, ...]] = []

    def losses_of_plans(plans: tuple[BitPlan, ...], _: list[int]) -> tuple[list[float], int]:
        seen.append(plans)
        return losses, 8

    frontend: Any = SimpleNamespace(losses_of_plans=losses_of_plans)
    images: Any = Numbers(range(16))
    made = search.Search(frontend, images, recipe, stages_of(recipe, target_here("auto")), NOT_KEPT, Clock(NO_PROGRESS))
    plan, _ = made._choose(sensitivities())
    trial = plan.granularity
    assert trial is not None
    assert (trial.chosen, trial.images) == (chosen, 8)
    assert [trial.layer_kl, trial.group_kl] == losses
    assert (plan.layers["a"].channel_widths is not None) == (chosen == "group")
    assert [own.promised_bytes for own in seen[0]] == [trial.layer_bytes, trial.group_bytes]
    assert BitPlan.model_validate_json(plan.model_dump_json()) == plan


class Numbers(list[int]):
    """Numbers that stand for images."""

    def slice(self, start: int, stop: int) -> Numbers:
        """Some of them."""
        return Numbers(self[start:stop])


@pytest.mark.parametrize("count", [1, 2, 3, 16, 128, 256, 400, 1000])
def test_images_of_the_comparison_are_none_of_those_of_the_costs(count: int) -> None:
    images: Any = Numbers(range(count))
    found = list(unmeasured(images))
    half = max(1, count // 2)
    costs = set(range(count - half, count)) if count > 1 else set()
    assert 1 <= len(found) <= MOST_HELD_OUT
    assert not costs & set(found)
    if count >= 400:
        assert min(found) >= SHARE_IMAGES
