"""Ladders of mixes, and swaps along them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from lampq_onnx.allocation import update_mixes
from lampq_onnx.allocation.groups import groups_of
from lampq_onnx.allocation.rungs import STEP, Rung, ladder_of
from lampq_onnx.artifacts import ActivationRange, ChannelWidths, LayerSensitivity

CANDIDATES = (2, 3, 4, 5, 6, 7, 8)
COSTS = 4.0 ** -np.array(CANDIDATES, dtype=np.float64)


def layer(outputs: int = 160, inputs: int = 20) -> LayerSensitivity:
    shares = np.random.default_rng(0).lognormal(0, 1, outputs)
    return LayerSensitivity(
        name="a",
        type="fc1",
        parameters=outputs * inputs,
        shape=(outputs, inputs),
        trace=1,
        nuclear_norm=1,
        weight_error={},
        channel_shares=tuple((shares / shares.sum()).tolist()),
        activation_range=ActivationRange(low=-1, high=1),
    )


def test_rungs_rise_in_bits_and_fall_in_cost() -> None:
    own = layer()
    groups = groups_of(own)
    assert groups is not None
    start = groups.widths(((3, 80), (4, 64), (5, 16)))
    rungs, at = ladder_of(own, groups, COSTS, CANDIDATES, start)
    assert rungs[at].widths == start
    assert rungs[at].bits == 20 * (3 * 80 + 4 * 64 + 5 * 16)
    bits, costs = np.array([r.bits for r in rungs]), np.array([r.cost for r in rungs])
    assert (np.diff(bits) > 0.98 * STEP * own.parameters).all()
    assert (np.diff(costs) < 0).all()
    assert bits[0] < (2 + STEP) * own.parameters
    assert bits[-1] > (8 - STEP) * own.parameters
    assert 5 <= len(rungs) <= 13
    for rung in rungs:
        if isinstance(rung.widths, ChannelWidths):
            assert rung.bits == 20 * int(rung.widths.row_bits().astype(int).sum())


def test_a_layer_without_groups_goes_through_its_widths() -> None:
    rungs, at = ladder_of(layer(), None, COSTS, CANDIDATES, 4)
    assert [rung.widths for rung in rungs] == list(CANDIDATES)
    assert at == 2


class Wants:
    """Better the more bits layer b has; errors are equal."""

    def __init__(self, worse: bool = False) -> None:
        self.asked: list[dict[str, int | ChannelWidths]] = []
        self._sign = -1 if worse else 1

    def reconstruction_errors(self, bits: Mapping[str, int | ChannelWidths]) -> dict[str, float]:
        return {"a": 0.01, "b": 0.02}

    def losses(self, bits: Mapping[str, int | ChannelWidths], best: object = None) -> np.ndarray:
        self.asked.append(dict(bits))
        own = bits["b"]
        assert isinstance(own, int)
        return 1 - self._sign * 0.1 * own + 0.001 * np.arange(50)


LADDERS = {name: [Rung(bits, 100 * bits, 4.0**-bits) for bits in CANDIDATES] for name in "ab"}


@pytest.mark.parametrize("worse", [False, True])
def test_swaps_are_kept_only_if_they_help(worse: bool) -> None:
    evaluator = Wants(worse)
    found = update_mixes({"a": 2, "b": 2}, LADDERS, 800, evaluator, rounds=5)
    first = found.history[0]
    assert (first.raised, first.lowered, first.kept) == ("b", "a", not worse)
    used = sum(LADDERS[name][rung].bits for name, rung in found.bits.items())
    assert used <= 800
    if worse:
        assert found.bits == {"a": 2, "b": 2}
        assert len(found.history) == 1
    else:
        assert found.bits == {"a": 0, "b": 4}
        assert found.score_after < found.score_before
