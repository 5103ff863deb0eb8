"""What artifacts show in Python and in notebooks."""

from __future__ import annotations

import pytest

from lampq_onnx import BitPlan, LayerPlan
from lampq_onnx.artifacts.shown import SHOWN
from tests.html.reports import HOSTILE, layer, report, sensitivities

PLAN = BitPlan(
    model="m",
    layers={f"blocks.{i}.fc": LayerPlan(weight_bits=2 + i, activation_bits=8, parameters=10) for i in range(4)},
)


def test_one_line_each() -> None:
    assert repr(report(model="m")) == (
        "Report(m: top-1 81.00 % -> 80.00 %, 4.000 -> 1.000 MB, 2.00x of float's speed, 6 layers)"
    )
    assert repr(PLAN) == str(PLAN) == "BitPlan(m: 4 layers, 3.500 weight bits on average)"
    assert repr(sensitivities()) == "Sensitivities(m: 6 layers measured on 8 images)"


def test_notebooks_get_a_card_and_a_table() -> None:
    text = report()._repr_html_()
    assert "<img" not in text  # names are no markup
    assert text.count("<tr>") == 1 + 6
    for word in ("1.00 ± 0.20", "4.0x smaller", "2.00x", "blocks.0.attn.qkv"):
        assert word in text
    many = report(layers=tuple(layer(f"blocks.{i}.a", 4) for i in range(SHOWN + 5)))._repr_html_()
    assert many.count("<tr>") == 1 + SHOWN
    assert "5 more" in many
    assert "cost_3_bits" in sensitivities()._repr_html_()
    assert "2, 3, 4, 5" in PLAN._repr_html_()


def test_tables_for_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = PLAN.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["weight_bits"].tolist() == [2, 3, 4, 5]
    assert (frame["weight_bits"] * frame["parameters"]).sum() / frame["parameters"].sum() == PLAN.weight_average()
    assert report().to_pandas()["layer"].tolist()[1] == f"blocks.0.mlp.{HOSTILE}"
    assert sensitivities().to_pandas()["cost_2_bits"].tolist() == pytest.approx([0.07 * (i + 1) for i in range(6)])


def test_they_are_read_back_as_before() -> None:
    assert BitPlan.model_validate_json(PLAN.to_json()) == PLAN
