"""Widths of single output channels in a plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lampq_onnx.artifacts import BitPlan, ChannelWidths, LayerPlan
from lampq_onnx.artifacts.channel_widths import write_order
from lampq_onnx.errors import LampqError

WIDTHS = {"counts": {"3": 2, "5": 3}, "order": [4, 1, 0, 2, 3]}


def layer(**change: Any) -> dict[str, Any]:
    return {"weight_bits": 5, "activation_bits": 8, "channel_widths": WIDTHS, **change}


def test_the_cheapest_channels_get_the_narrowest_width() -> None:
    found = LayerPlan.model_validate(layer())
    np.testing.assert_array_equal(found.row_bits(5), [5, 3, 5, 5, 3])
    assert found.mean_weight_bits == (2 * 3 + 3 * 5) / 5
    plain = LayerPlan(weight_bits=4, activation_bits=8)
    assert plain.mean_weight_bits == 4
    np.testing.assert_array_equal(plain.row_bits(3), [4, 4, 4])
    with pytest.raises(ValueError, match="5 output channels, not of 6"):
        found.row_bits(6)


def test_averages_count_every_channel() -> None:
    mixed = LayerPlan.model_validate(layer(parameters=50))
    plan = BitPlan(layers={"a": mixed, "b": LayerPlan(weight_bits=2, activation_bits=8, parameters=150)})
    assert plan.weight_average() == pytest.approx((50 * 4.2 + 150 * 2) / 200)
    assert plan.weight_average_unweighted() == pytest.approx((4.2 + 2) / 2)


def test_changing_the_width_of_the_layer_or_of_its_channels() -> None:
    plan = BitPlan(layers={"a": LayerPlan.model_validate(layer())})
    assert plan.with_weight_bits({"a": 6}).layers["a"] == LayerPlan(weight_bits=6, activation_bits=8)
    other = ChannelWidths(counts={4: 4, 8: 1}, order=(0, 1, 2, 3, 4))
    changed = plan.with_channel_widths({"a": other}).layers["a"]
    assert (changed.weight_bits, changed.channel_widths) == (8, other)
    same = plan.with_channel_widths({"a": ChannelWidths(counts={4: 5}, order=(0, 1, 2, 3, 4))}).layers["a"]
    assert same == LayerPlan(weight_bits=4, activation_bits=8)


def test_a_plan_with_and_without_widths_of_channels_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan = BitPlan(layers={"a": LayerPlan.model_validate(layer()), "b": LayerPlan(weight_bits=2, activation_bits=8)})
    plan.save(path)
    assert BitPlan.load(path) == plan
    data = json.loads(path.read_text())
    assert data["layers"]["a"]["channel_widths"] == {"counts": {"3": 2, "5": 3}, "order": "4 1 0 2 3"}
    assert "channel_widths" not in data["layers"]["b"]  # earlier versions refuse the key
    schema = BitPlan.model_json_schema()
    jsonschema.validate(data, schema)
    data["layers"]["a"]["channel_widths"]["order"] = "4 x"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, schema)


def test_counts_are_edited_by_hand() -> None:
    # The width of the layer follows, and the order stays.
    text = {"activation_bits": 8, "channel_widths": {"counts": {"3": 1, "5": 0, "7": 1, "1": 3}, "order": "4 1 0 2 3"}}
    found = LayerPlan.model_validate(text)
    assert found.weight_bits == 7
    assert found.channel_widths is not None
    assert found.channel_widths.counts == {1: 3, 3: 1, 7: 1}
    np.testing.assert_array_equal(found.row_bits(5), [1, 1, 3, 7, 1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight_bits": 6}, "weight_bits is 6, and the widest of channel_widths is 5"),
        ({"weight_bits": 32, "activation_bits": 32}, "widest of channel_widths is 5"),
        ({"channel_widths": {"counts": {"3": 2, "5": 2}, "order": "0-4"}}, "the counts are 4 channels together"),
        ({"channel_widths": {"counts": {"3": 2, "5": 3}, "order": "0-3 3"}}, "each of the channels 0 to 4 once"),
        ({"channel_widths": {"counts": {"3": 2, "5": 3}, "order": "0-3 5"}}, "each of the channels 0 to 4 once"),
        ({"channel_widths": {"counts": {"3": 2, "9": 3}, "order": "0-4"}}, "must be 1 to 8 bits, not 9"),
        ({"channel_widths": {"counts": {"0": 2, "5": 3}, "order": "0-4"}}, "must be 1 to 8 bits, not 0"),
        ({"channel_widths": {"counts": {}, "order": ""}}, "1 to 4 widths, and 0"),
        ({"channel_widths": {"counts": dict.fromkeys("12345", 1), "order": "0-4"}}, "1 to 4 widths, and 5"),
        ({"channel_widths": {"counts": {"3": 2, "5": -3}, "order": "0-4"}}, "greater than or equal to 0"),
        ({"channel_widths": {"counts": {"3": 2, "5": 3}, "order": "4-0"}}, "not a run of channels"),
        ({"channel_widths": {"counts": {"3": 2, "5": 3}, "order": "0-99999999"}}, "not a run of channels"),
        ({"channel_widths": {"counts": {"3": 2, "5": 3}, "order": "0 -4"}}, "neither a channel nor a run"),
        ({"channel_widths": {"counts": {"3": 2, "5": 3}}}, "order"),
    ],
)
def test_wrong_widths_of_channels(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=words):
        LayerPlan.model_validate(layer(**change))
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"layers": {"a": layer(**change)}}))
    with pytest.raises(LampqError, match=r"at layers\.a"):
        BitPlan.load(path)


@given(st.permutations(range(9)), st.lists(st.sampled_from((1, 2, 5, 8)), min_size=9, max_size=9))
def test_orders_and_rows_there_and_back(order: list[int], bits: list[int]) -> None:
    counts = {width: bits.count(width) for width in sorted(set(bits))}
    text = write_order(order)
    widths = ChannelWidths.model_validate({"counts": counts, "order": text})
    assert widths.order == tuple(order)
    expected = dict(zip(order, sorted(bits), strict=True))
    np.testing.assert_array_equal(widths.row_bits(), [expected[row] for row in range(9)])
    again = ChannelWidths.from_rows(widths.row_bits())
    assert again.counts == counts
    np.testing.assert_array_equal(again.row_bits(), widths.row_bits())
